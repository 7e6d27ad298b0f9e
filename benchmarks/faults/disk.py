"""Fill the disk at many moments of a command, then make room and go on.

    sudo python benchmarks/faults/disk.py --moments 20

Each command writes to a small file system of its own, from one that holds next to nothing to one that is nearly large
enough. It must end with one line that says what could not be written, without a traceback, and not with status 0; after the
file system was made larger, the command with --resume must end with 0 and the result of an undisturbed run. Mounting needs
the rights of root. Prints a Markdown table; the exit status is 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from kill import cropped, predicted, trained
from workbench import film, mounted, save_model, svfap, training_set

TRAINING = (
    "finetune", "--manifest", "m.csv", "--out", "small/run", "--preset", "svfap_debug", "--epochs", 4, "--batch_size", 4,
    "--num_workers", 0, "--warmup_epochs", 0, "--precision", "fp32",
)  # fmt: skip
# Command, the options that continue it, the part of the disk that it needs, and what is compared.
COMMANDS = {
    "training": (TRAINING, ("--resume",), trained, "run"),
    "predict": (
        ("predict", "long", "--model", "model", "--faces", "none", "--hop_s", 0.04, "--out", "small/run/affect.csv",
         "--batch_size", 4, "--precision", "fp32"),
        ("--resume",), predicted, "run",
    ),
    "crop": (("crop", "long", "--out", "small/run", "--faces", "haar"), (), cropped, "run"),
    "extract": (
        ("extract", "long", "--model", "model", "--hop_s", 0.04, "--out", "small/run/f.npz"),
        (), lambda out: (out / "f.npz").stat().st_size, "run",
    ),
}  # fmt: skip


def size_of(folder: Path) -> int:
    """Bytes that the files below a folder take, in pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def fill(name: str, moments: int, folder: Path) -> list[str]:
    """The cells of one command's row."""
    command, more, result, out = COMMANDS[name]
    small = folder / "small"
    with mounted(small, 1 << 20):
        (small / out).mkdir()
        whole = svfap(*command, cwd=folder)
        if whole.status != 0:
            raise RuntimeError(f"{name}: the undisturbed run ended with {whole.status}: {whole.last_line}")
        expected, needed = result(small / out), size_of(small) // 1024
    full = tracebacks = one_line = went_on = same = 0
    for moment in range(moments):
        kilobytes = max(int(needed * (0.02 + 0.95 * moment / moments)), 8)
        with mounted(small, kilobytes):
            (small / out).mkdir()
            done = svfap(*command, cwd=folder)
            full += done.status != 0
            tracebacks += done.has_traceback
            one_line += (
                "No space left" in done.last_line
                or "cannot be written" in done.last_line
                or "failures.csv" in done.last_line
            )
            subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
            again = svfap(*command, *more, cwd=folder)
            went_on += again.status == 0
            same += again.status == 0 and result(small / out) == expected
            print(
                f"{name} with {kilobytes} of {needed} kB: exit {done.status}: {done.last_line[:150]}; then {again.status}",
                flush=True,
            )
    return [name, str(moments), str(full), str(one_line), str(tracebacks), str(went_on), str(same)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="over all commands; default: 20")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training_set(folder)
        save_model(folder / "model", sampling_stride=1)
        for part in ("small", "long"):
            (folder / part).mkdir()
        for n in range(6):
            film(folder / "long" / f"v{n}.mp4", n, number=150)
        each, rest = divmod(args.moments, len(args.only))
        rows = [fill(kind, each + (n < rest), folder) for n, kind in enumerate(args.only)]
    print("\n| command | moments | ended with an error | in one line | tracebacks | went on | with the same result |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print("|", " | ".join(row), "|")
    raise SystemExit(any(row[4] != "0" or len(set(row[2:4] + row[5:])) > 1 for row in rows))


if __name__ == "__main__":
    main()
