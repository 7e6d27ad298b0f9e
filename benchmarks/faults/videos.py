"""Damaged videos through every command that reads videos.

    python benchmarks/faults/videos.py --number 500

Small videos in several containers and codecs are truncated, have bytes flipped, blocks zeroed, or the header of another file;
sound ones lie between them. Each command must end in time, without a traceback, and with a status other than 0 exactly if
files are listed as failed; every file has either results or an entry in the list; rows lie within the time that the file
states and are finite; and the sound files must have the results that they have alone. Prints a Markdown table; the exit status
is 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from workbench import LABELS, Outcome, film, save_model, svfap

CONTAINERS = {
    ".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".ts": "mpeg2video", ".mov": "mjpeg",
}  # fmt: skip
LENGTH = 30  # frames
DAMAGES = ("truncated", "flipped", "zeroed", "header", "appended")


def damage(data: bytes, other: bytes, kind: str, rng: random.Random) -> bytes:
    """A damaged copy of a file's bytes."""
    if kind == "truncated":
        return data[: rng.randrange(len(data))]
    if kind == "header":
        length = rng.choice([16, 64, 512, 2048])
        return other[:length] + data[length:]
    if kind == "appended":
        return data + other[rng.randrange(len(other)) :]
    changed = bytearray(data)
    if kind == "zeroed":
        start = rng.randrange(len(data))
        length = min(rng.choice([64, 1024, 8192]), len(data) - start)
        changed[start : start + length] = bytes(length)
    else:
        for _ in range(rng.choice([1, 8, 64, 512])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def make_videos(folder: Path, number: int, seed: int) -> tuple[list[str], list[str]]:
    """Write sound files (one in ten) and damaged ones; (sound names, damaged names)."""
    rng, originals = random.Random(seed), []
    (folder / "sound").mkdir(parents=True)
    for k, (suffix, codec) in enumerate(CONTAINERS.items()):
        originals += [film(folder / "sound" / f"o{k}_{n}{suffix}", 10 * k + n, codec, LENGTH) for n in range(2)]
    videos = folder / "videos"
    videos.mkdir()
    damaged, sound = [], []
    for n in range(number):
        original = originals[n % len(originals)]
        kind = DAMAGES[n // len(originals) % len(DAMAGES)]
        name = f"{n:04d}_{kind}{original.suffix}"
        (videos / name).write_bytes(damage(original.read_bytes(), rng.choice(originals).read_bytes(), kind, rng))
        damaged.append(name)
        if n % 10 == 0:
            name = f"{n:04d}_sound{original.suffix}"
            (videos / name).write_bytes(original.read_bytes())
            sound.append(name)
    return sound, damaged


class Check:
    """What was found wrong with one command."""

    def __init__(self, name: str, done: Outcome) -> None:
        self.name, self.done, self.problems = name, done, []
        self.num_failed = 0
        self.that(done.status is not None, "ran past its time")
        self.that(not done.has_traceback, f"traceback: {done.last_line[:200]}")

    def that(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def partition(self, names: list[str], with_results: set[str], failed: set[str]) -> None:
        self.num_failed = len(failed)
        missing = [name for name in names if name not in with_results | failed]
        self.that(not missing, f"{len(missing)} neither done nor listed, such as {missing[:1]}")
        self.that((self.done.status != 0) == bool(failed), f"exit {self.done.status} with {len(failed)} failed")

    def row(self, number: int) -> list[str]:
        return [
            self.name, str(number), str(self.num_failed), str(self.done.status), f"{self.done.seconds:.0f}",
            "; ".join(self.problems) or "none",
        ]  # fmt: skip


def stated_s(video: Path) -> float:
    """Seconds that a readable file lasts by its own time stamps; damage may have changed them."""
    from svfap.data.video import open_video

    with open_video(video) as source:
        return source.duration_s


def check_predict(folder: Path, names: list[str], sound: list[str]) -> Check:
    arguments = ("--model", "model", "--faces", "none", "--hop_s", 0.2, "--precision", "fp32")
    check = Check("predict", svfap("predict", "videos", *arguments, "--out", "a.csv", cwd=folder, timeout_s=1800))
    table = pd.read_csv(folder / "a.csv")
    table["name"] = table["video"].map(lambda path: Path(path).name)
    failed = set(re.findall(r"error: videos/(\d{4}_\w+\.\w+)", check.done.output))
    check.partition(names, set(table["name"]), failed)
    numbers = table.select_dtypes("number")
    check.that(bool(np.isfinite(numbers.to_numpy()).all()), "rows with values that are not finite")
    last = table.groupby("name")["end_s"].max()
    late = [name for name, end_s in last.items() if end_s > stated_s(folder / "videos" / str(name)) + 0.05]
    check.that(not late, f"{len(late)} videos with rows after their end, such as {late[:3]}")
    alone = svfap("predict", *(f"videos/{name}" for name in sound[:10]), *arguments, "--out", "b.csv", cwd=folder)
    check.that(alone.status == 0, f"sound files alone: {alone.last_line[:100]}")
    expected = pd.read_csv(folder / "b.csv")
    found = table[table["name"].isin(sound[:10])].drop(columns="name").reset_index(drop=True)
    equal = len(expected) == len(found) and np.allclose(
        expected.select_dtypes("number"), found.select_dtypes("number"), rtol=0, atol=1e-6
    )
    check.that(equal, "sound files have other rows than alone")
    return check


def check_crop(folder: Path, names: list[str], sound: list[str]) -> Check:
    command = ("crop", "videos", "--out", "crops", "--faces", "haar", "--num_workers", 2, "--item_timeout_s", 60)
    check = Check("crop", svfap(*command, cwd=folder, timeout_s=1800))
    listed = {}
    for kind in ("failures", "no_face"):
        file = folder / "crops" / f"{kind}.csv"
        listed[kind] = {Path(row).name for row in pd.read_csv(file).iloc[:, 0]} if file.exists() else set()
    manifest = folder / "crops" / "manifest.csv"
    done = {Path(source).name for source in pd.read_csv(manifest)["source"]} if manifest.exists() else set()
    check.partition(names, done | listed["no_face"], listed["failures"])
    check.that(not listed["failures"] & set(sound), "sound files have failed")
    return check


def check_extract(folder: Path, names: list[str], sound: list[str]) -> Check:
    arguments = ("--model", "model", "--faces", "none", "--num_workers", 2, "--item_timeout_s", 60)
    check = Check("extract", svfap("extract", "videos", *arguments, "--out", "f.parquet", cwd=folder, timeout_s=1800))
    table = pd.read_parquet(folder / "f.parquet")
    file = folder / "f.unreadable.csv"
    failed = {Path(path).name for path in pd.read_csv(file)["path"]} if file.exists() else set()
    check.partition(names, {Path(path).name for path in table["path"]}, failed)
    check.that(bool(np.isfinite(np.stack(list(table["feature"]))).all()), "features that are not finite")
    check.that(not failed & set(sound), "sound files have failed")
    return check


def check_training(folder: Path, names: list[str], sound: list[str]) -> Check:
    rows = [f"videos/{name},{LABELS[n % len(LABELS)]}" for n, name in enumerate(names)]
    (folder / "m.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    done = svfap(
        "finetune", "--manifest", "m.csv", "--out", "run", "--preset", "svfap_debug", "--epochs", 2, "--batch_size", 8,
        "--warmup_epochs", 0, "--num_workers", 1, "--max_unreadable", 1, "--model.sampling_stride", 1, cwd=folder,
        timeout_s=1800,
    )  # fmt: skip
    check = Check("training", done)
    check.that(done.status == 0, f"exit {done.status}: {done.last_line[:200]}")
    file = folder / "run" / "unreadable.csv"
    failed = {Path(path).name for path in pd.read_csv(file)["path"]} if file.exists() else set()
    check.num_failed = len(failed)
    check.that(not failed & set(sound), "sound files have failed")
    losses = [json.loads(line).get("loss") or 0.0 for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    check.that(bool(np.isfinite(losses).all()), "losses that are not finite")
    strict = svfap(
        "finetune", "--manifest", "m.csv", "--out", "strict", "--preset", "svfap_debug", "--epochs", 2, "--batch_size", 8,
        "--warmup_epochs", 0, "--num_workers", 0, "--model.sampling_stride", 1, cwd=folder, timeout_s=1800,
    )  # fmt: skip
    stops = strict.status == 1 and "max_unreadable" in strict.output and not strict.has_traceback
    check.that(stops, f"more unreadable videos than allowed: {strict.last_line[:150]}")
    return check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=500, help="damaged videos; default: 500")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder to work in, which stays")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(exist_ok=True)
        sound, damaged = make_videos(folder, args.number, args.seed)
        save_model(folder / "model", sampling_stride=1)
        checks = []
        for check in (check_predict, check_crop, check_extract, check_training):
            checks.append(check(folder, sorted(sound + damaged), sound))
            print(checks[-1].row(args.number + len(sound)), flush=True)
    print("\n| command | files | failed and listed | exit status | seconds | problems |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for done in checks:
        print("|", " | ".join(done.row(args.number + len(sound))), "|")
    raise SystemExit(any(done.problems for done in checks))


if __name__ == "__main__":
    main()
