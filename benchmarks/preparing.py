"""Time and memory of `svfap prepare` on large releases.

Creates releases of files without content in a temporary folder: FERV39k at its official size, and VoxCeleb2 at two sizes. Each is
prepared in a separate process, so that its peak memory can be measured. Prints Markdown.

    python benchmarks/preparing.py
    python benchmarks/preparing.py --clips 200000 1000000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import PLACEHOLDER_BYTES, get_dataset
from svfap.datasets.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 200_000], help="numbers of clips of VoxCeleb2")
    # Used internally: the release that a subprocess prepares.
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", default="ferv39k", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.root:
        return measure(args.dataset, args.root)
    print("| dataset | clips | seconds | clips per second | peak memory, MB | growth, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        ferv39k(Path(folder) / "ferv39k")
        measure_in_subprocess("ferv39k", Path(folder) / "ferv39k")
        for number in args.clips:
            root = Path(folder) / f"voxceleb2_{number}"
            voxceleb2(root, number)
            measure_in_subprocess("voxceleb2", root)


def measure_in_subprocess(dataset: str, root: Path) -> None:
    print(end="", flush=True)
    subprocess.run([sys.executable, __file__, "--dataset", dataset, "--root", str(root)], check=True)


def measure(name: str, root: Path) -> None:
    """Prepare one release and print its row: peak memory of the process, and its growth during preparation."""
    before, start = peak_memory_mb(), time.perf_counter()
    dataset = prepare(name, PrepareConfig(root=root, out=root.with_suffix(".out")))
    seconds = time.perf_counter() - start
    number = sum(dataset.counts.values())
    after = peak_memory_mb()
    speed, memory = f"{seconds:.1f} | {number / seconds:,.0f}", f"{after:.0f} | {after - before:.0f}"
    print(f"| {dataset.title} | {number:,} | {speed} | {memory} |")


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def ferv39k(root: Path) -> None:
    """Create a release of 38,935 clips in 22 scenes and 7 classes."""
    dataset, start = get_dataset("ferv39k"), 0
    for part, size in dataset.expected.items():
        lines = []
        for number in range(start, start + size):
            label = dataset.label_names[number % 7]
            folder = f"Scene{number % 22}/{label}"
            touch(root / "2_ClipsforFaceCrop" / folder, f"{number:05d}")
            lines.append(f"{folder}/{number:05d} {label}\n")
        start += size
        (root / "4_setups/All_scenes").mkdir(parents=True, exist_ok=True)
        (root / f"4_setups/All_scenes/{part}_All.csv").write_text("".join(lines))


def voxceleb2(root: Path, number: int) -> None:
    """Create a release in which each speaker has 24 videos of 8 clips, the averages of the official one."""
    for clip in range(number):
        touch(root / f"dev/mp4/id{clip // 192:05d}/video{clip // 8:07d}", f"{clip % 8:05d}.mp4")


def touch(folder: Path, name: str) -> None:
    try:
        with open(f"{folder}/{name}", "wb") as file:
            file.truncate(PLACEHOLDER_BYTES)  # smaller files are opened
    except FileNotFoundError:
        folder.mkdir(parents=True)
        touch(folder, name)


if __name__ == "__main__":
    main()
