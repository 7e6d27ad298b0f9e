"""How long `svfap prepare` takes on a large release, and whether its memory stays flat where clips stream.

Builds layouts of empty files in a temporary folder: FERV39k at its official size, and VoxCeleb2 at two sizes, each
prepared in a process of its own. Prints Markdown.

    python benchmarks/preparing.py
    python benchmarks/preparing.py --clips 200000 1000000
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from svfap.prepare.config import PrepareConfig
from svfap.prepare.dataset import get_dataset
from svfap.prepare.write import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 200_000], help="sizes of VoxCeleb2")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)  # of the one release that a child prepares
    parser.add_argument("--dataset", default="ferv39k", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.root:
        return measure(args.dataset, args.root)
    print(
        "| dataset | clips | seconds | clips a second | peak memory, MB | growth, MB |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        ferv39k(Path(folder) / "ferv39k")
        child("ferv39k", Path(folder) / "ferv39k")
        for number in args.clips:
            root = Path(folder) / f"voxceleb2_{number}"
            voxceleb2(root, number)
            child("voxceleb2", root)


def child(dataset: str, root: Path) -> None:
    print(end="", flush=True)
    subprocess.run([sys.executable, __file__, "--dataset", dataset, "--root", str(root)], check=True)


def measure(name: str, root: Path) -> None:
    """Prepare and print one row; peak memory is the process's, growth that since before the preparation."""
    before, start = peak(), time.perf_counter()
    dataset = prepare(name, PrepareConfig(root=root, out=root.with_suffix(".out")))
    took = time.perf_counter() - start
    number = sum(dataset.counts.values())
    print(
        f"| {dataset.title} | {number:,} | {took:.1f} | {number / took:,.0f} | {peak():.0f} | {peak() - before:.0f} |"
    )


def peak() -> float:
    """Greatest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def ferv39k(root: Path) -> None:
    """38,935 clips in 22 scenes and 7 classes."""
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
    """Speakers of 24 videos with 8 clips each, as in the release on average."""
    for clip in range(number):
        touch(root / f"dev/mp4/id{clip // 192:05d}/video{clip // 8:07d}", f"{clip % 8:05d}.mp4")


def touch(folder: Path, name: str) -> None:
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT))
    except FileNotFoundError:
        folder.mkdir(parents=True)
        touch(folder, name)


if __name__ == "__main__":
    main()
