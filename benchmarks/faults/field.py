"""Inputs from the field, and what the program does with each: expected and observed, side by side.

    python benchmarks/faults/field.py FOLDER

FOLDER holds a subfolder for each case below, with the media that its README names; they are not part of the repository.
Prints a Markdown table; the exit status is 1 if anything observed is not as expected.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from workbench import Outcome, film, mounted, save_model, start, svfap, training_set

TINY = ("--preset", "svfap_debug", "--batch_size", 4, "--repeats", 1, "--num_workers", 0, "--warmup_epochs", 0)
SMALL = (
    *TINY[:2],
    "--batch_size",
    1,
    *TINY[4:],
    "--epochs",
    1,
    "--val_fraction",
    0,
)  # for lists of two or three videos


class Bench:
    """The model, the training videos and a folder for what the cases write. `inputs`: the folder of cases."""

    def __init__(self, inputs: Path, work: Path) -> None:
        self.inputs, self.work = inputs, work
        self.model = save_model(work / "model", frame_rate=30.0)
        self.videos = work / "videos"
        training_set(self.videos)

    def folder(self, case: str) -> Path:
        """A copy of a case's inputs, in which it may write."""
        return Path(shutil.copytree(self.inputs / case, self.work / case, symlinks=True))

    def with_videos(self, case: str) -> Path:
        """A copy of a case's inputs, with the training videos v00.mp4, … beside them."""
        folder = self.folder(case)
        for video in self.videos.glob("*.mp4"):
            shutil.copy(video, folder)
        return folder

    def only_videos(self, name: str) -> Path:
        """A folder with the training videos and their manifest m.csv."""
        return Path(shutil.copytree(self.videos, self.work / name))

    def predict(self, video: str, folder: Path, *more: object) -> tuple[Outcome, pd.DataFrame]:
        """Predict with the whole picture as a face, unless `more` says otherwise; (outcome, table)."""
        out = folder / "out.csv"
        arguments = ("--faces", "none", *more) if "--faces" not in more else more
        outcome = svfap("predict", video, "--model", self.model, "--out", out, *arguments, cwd=folder)
        return outcome, pd.read_csv(out) if out.exists() else pd.DataFrame()


def ends(table: pd.DataFrame) -> str:
    return f"last end_s {table['end_s'].max():.2f}" if len(table) else "no rows"


def message(outcome: Outcome, pattern: str) -> str:
    """Exit status, and the part of the output that matches the pattern."""
    if outcome.has_traceback:
        return f"traceback: {outcome.last_line}"
    found = re.search(pattern, " ".join(outcome.output.split()))
    return f"exit {outcome.status}, {'says ' + found[0] if found else 'says: ' + outcome.last_line[:150]}"


def checkpoints(bench: Bench) -> str:
    folder = bench.folder("checkpoints_with_other_names_or_objects")
    code = (folder / "ck.py").read_text().replace("MODEL", str(bench.model))
    code = code.replace("from svfap.weights import load_model", "from svfap.weights.folder import load_model")
    (folder / "ck.py").write_text(
        code.replace('subprocess.run(["svfap"', 'subprocess.run([sys.executable,"-m","svfap"')
    )
    import subprocess

    done = subprocess.run([sys.executable, "ck.py"], cwd=folder, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if ".pth" in line or ".ckpt" in line]
    same = sum(" OK " in line for line in lines)
    refused = sorted(line.split()[0] for line in lines if "UserError" in line or "CheckpointError" in line)
    said = all(re.search("git-lfs pointer|web page", line) for line in lines if line.split()[0] in refused)
    return f"{same} of {len(lines)} read, refused with the reason: {', '.join(refused) if said else lines}"


def unicode_forms(bench: Bench) -> str:
    folder = bench.folder("composed_and_decomposed_names")
    name = "Zoë_fröhlich.mp4"
    shutil.copy(bench.videos / "v00.mp4", folder / unicodedata.normalize("NFD", name))
    (folder / "m.csv").write_text(f"path,label\n{unicodedata.normalize('NFC', name)},happy\n", encoding="utf-8")
    done = svfap("extract", "m.csv", "--model", bench.model, "--out", "f.parquet", "--faces", "none", cwd=folder)
    return (
        f"exit {done.status}, {len(pd.read_parquet(folder / 'f.parquet'))} rows" if done.status == 0 else done.last_line
    )


def disk_full(bench: Bench) -> str:
    folder = bench.only_videos("disk_full_in_training")
    small = folder / "small"
    small.mkdir()
    command = ("finetune", "--manifest", "m.csv", "--out", "small/run", *TINY, "--epochs", 30)
    with mounted(small, 2200):
        done = svfap(*command, cwd=folder)
        kept = (small / "run" / "last" / "state.json").exists()
        text = message(done, "(cannot be written|No space left on device)")
        os.system(f"mount -o remount,size=64m {small}")
        again = svfap(*command, "--resume", cwd=folder)
        return f"{text}; checkpoint {'kept' if kept else 'lost'}; with space --resume exits {again.status}"


def duplicate_stamp(bench: Bench) -> str:
    folder = bench.folder("duplicate_timestamp")
    good, bad = (bench.predict(name, folder)[1] for name in ("vfr_ok.mkv", "vfr_dup.mkv"))
    worst = np.abs(good[["start_s", "end_s"]].to_numpy() - bad[["start_s", "end_s"]].to_numpy()).max()
    return f"{ends(good)} without and {ends(bad)} with the fault, times differ by {'at most 0.1' if worst <= 0.1 else worst} s"


def nas_folders(bench: Bench) -> str:
    folder = bench.folder("folders_of_a_nas")
    done = svfap("prepare", "folder", "--root", "root", "--out", "X", cwd=folder)
    listed = sum(len(pd.read_csv(file)) for file in (folder / "X").glob("*.csv")) if done.status == 0 else -1
    named = any("@eaDir" in file.read_text() for file in (folder / "X").glob("*.csv"))
    return f"exit {done.status}, {listed} clips{', one in @eaDir' if named else ''}"


def of_frames(targets: dict[str, np.ndarray]) -> np.ndarray:
    """The targets of a clip for a model with one head."""
    (only,) = targets.values()
    return only


def holes(bench: Bench) -> str:
    """Value of a frame minus its number in hundredths, for every sampled frame."""
    from svfap.data.clip_dataset import ClipDataset
    from svfap.data.manifest import read_manifest

    folder = bench.folder("frame_folder_with_holes")
    manifest = read_manifest(folder / "m.csv", task="regression", dimensions=["valence"], frame_level=True)
    item = ClipDataset(manifest, "train", 16, 4, 32, 0, frame_level=True)[0]
    if item.reason:
        return f"refused: {item.reason}"
    shown = np.stack(item.clips).mean(axis=(2, 3, 4)).ravel() / 2
    targets = np.stack([of_frames(targets) for targets in item.targets]).ravel()
    return f"targets differ from the numbers shown by at most {np.abs(shown - targets * 100).max():.0f}"


def several_sizes(bench: Bench) -> str:
    folder = bench.folder("frames_of_several_sizes")
    done = svfap("extract", "v0", "--model", bench.model, "--out", "f.parquet", "--faces", "none", cwd=folder)
    return (
        f"exit {done.status}, {len(pd.read_parquet(folder / 'f.parquet'))} rows" if done.status == 0 else done.last_line
    )


def git_lfs(bench: Bench) -> str:
    folder = bench.folder("git_lfs_pointer")
    return message(bench.predict("1000_DFA_ANG_XX.flv", folder)[0], "git-lfs pointer.*git lfs pull")


def high_frame_rate(bench: Bench) -> str:
    folder = bench.folder("high_frame_rate")
    done, _ = bench.predict("x240.mp4", folder)
    said = "240" in done.output and "30" in done.output
    whole = pd.read_csv(folder / "out.csv")
    from svfap.data.video import open_video

    with open_video(folder / "x240.mp4") as video:
        lasts = video.duration_s
    window = (whole["end_s"] - whole["start_s"]).max()
    as_trained = abs(window - min(lasts, 2.1)) < 0.1
    return f"windows last {'as in training (or as long as the file)' if as_trained else window}, {'said' if said else 'not said'}"


def joined(bench: Bench) -> str:
    folder = bench.folder("joined_ts_of_two_rates")
    _, table = bench.predict("joined_mixed.ts", folder)
    crossing = ((table["start_s"] < 2.9) & (table["end_s"] > 3.1)).sum() if len(table) else -1
    return f"{ends(table)}, {crossing} windows across the joint"


def from_one(bench: Bench) -> str:
    folder = bench.with_videos("labels_counted_from_one")
    seen = []
    for file, wanted in (
        ("m17.csv", r"no row has label 0"),
        ("one.csv", r"01, 02, 08"),
        ("casev.csv", "only in case"),
    ):
        done = svfap("finetune", "--manifest", file, "--out", f"run_{file}", *SMALL, cwd=folder, timeout_s=120)
        outputs = json.loads((folder / f"run_{file}" / "best" / "config.json").read_text()) if done.status == 0 else {}
        text = re.search(wanted, done.output + " " + ", ".join(outputs.get("label_names", ())))
        seen.append(f"{file}: {'named' if text else done.last_line[:100]}")
    return "; ".join(seen)


def three_columns(bench: Bench) -> str:
    folder = bench.with_videos("list_with_three_columns")
    done = svfap("finetune", "--manifest", "raw3.txt", "--out", "run", *SMALL, cwd=folder)
    return message(done, "three columns|number of frames")


def marks(bench: Bench) -> str:
    folder = bench.folder("marks_of_invalid_frames")
    regression = ("--task", "regression", "--dimensions", "[valence,arousal]", "--frame_level", "true")
    common = (*regression, *TINY, "--batch_size", 1, "--sampling_stride", 1, "--epochs", 1, "--val_fraction", 0)
    asked = svfap("finetune", "--manifest", "m.csv", *common, "--out", "a", cwd=folder)
    declared = svfap("finetune", "--manifest", "m.csv", *common, "--invalid_marks", "[-5]", "--out", "b", cwd=folder)
    log = folder / "b" / "log.jsonl"
    loss = max(json.loads(line).get("loss", 0) for line in log.read_text().splitlines()) if log.exists() else None
    labels = ("--label_names", "[a,b,c]", "--frame_level", "true", *TINY, "--batch_size", 1, "--sampling_stride", 1)
    classes = svfap(
        "finetune", "--manifest", "e.csv", *labels, "--epochs", 1, "--val_fraction", 0, "--out", "c", cwd=folder
    )
    masked = loss is not None and loss < 1
    return (
        f"undeclared: {message(asked, 'invalid_marks')}; declared: {'left out' if masked else declared.last_line}; "
        f"label -1: exit {classes.status}"
    )


def odd_names(bench: Bench) -> str:
    folder = bench.folder("names_that_are_not_utf8")
    shutil.copy(os.fsencode(folder / "a.mp4"), os.fsencode(folder) + b"/caf\xe9.mp4")
    name = os.fsdecode(b"caf\xe9.mp4")
    done, table = bench.predict(name, folder)
    plain = bench.predict("a.mp4", folder, "--overwrite")[1].drop(columns="video")
    same = len(table) and table.drop(columns="video").equals(plain)
    seen = [f"predict exit {done.status}, {'the same' if same else 'not the same'} rows as under another name"]
    for verb, more in (("crop", ("--out", "X")), ("extract", ("--model", bench.model, "--out", "f.parquet"))):
        done = svfap(verb, folder if verb == "crop" else name, *more, "--faces", "haar", cwd=folder)
        seen.append(f"{verb} exit {done.status}{', traceback' if done.has_traceback else ''}")
    return "; ".join(seen)


def non_square(bench: Bench) -> str:
    from svfap.data.video import open_video

    folder = bench.folder("non_square_pixels")
    bench.predict("sar.mp4", folder, "--overlay", "o.mp4")
    seen = []
    for name in ("sar.mp4", "o.mp4"):
        with open_video(folder / name) as video:
            seen.append(f"{name} {video.width}x{video.height}")
    return ", ".join(seen)


def odd_text(bench: Bench) -> str:
    folder = bench.folder("odd_encodings_of_text")
    info = svfap("info", cwd=folder, PYTHONIOENCODING="ascii")
    config = svfap("finetune", "--config", "utf16.yaml", cwd=folder)
    return f"info exit {info.status}; config: {message(config, 'is not UTF-8 text')}"


def pause(bench: Bench) -> str:
    folder = bench.folder("pause_in_recording")
    _, table = bench.predict("pause.mkv", folder)
    inside = ((table["end_s"] <= 2.45) | ((table["start_s"] >= 62.3) & (table["end_s"] <= 64.85))).all()
    return f"{len(table)} rows, {'none' if inside else 'some'} in the pause, {ends(table)}"


def raw_rate(bench: Bench) -> str:
    return ends(bench.predict("rpi.h264", bench.folder("raw_h264_rate"))[1])


def resumed(bench: Bench) -> str:
    folder = bench.with_videos("resume_with_other_manifest")
    rows = (folder / "m_original.csv").read_text()
    changes = {
        "fewer rows": "\n".join(rows.splitlines()[:13]) + "\n",
        "renamed class": rows.replace("happy", "zhappy"),
        "class removed": "\n".join(line for line in rows.splitlines() if "angry" not in line) + "\n",
    }
    command = ("finetune", "--manifest", "m.csv", *TINY, "--epochs", 400, "--out", "run")
    seen = []
    (folder / "m.csv").write_text(rows)
    interrupted(command, folder, folder / "run" / "last" / "state.json")
    for name, text in changes.items():
        (folder / "m.csv").write_text(text)
        done = svfap(*command, "--resume", cwd=folder, timeout_s=60)
        seen.append(f"{name}: {'refused' if done.status not in (0, None) and not done.has_traceback else done.status}")
    return "; ".join(seen)


def interrupted(command: tuple[object, ...], folder: Path, until: Path, limit_s: float = 120) -> int:
    """Start a run, stop it with Ctrl-C once a file is there; returns the exit status."""
    process, began = start(*command, cwd=folder), time.monotonic()
    while not until.exists() and process.poll() is None and time.monotonic() - began < limit_s:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=limit_s)
    return process.returncode


def second_stream(bench: Bench) -> str:
    from svfap.data.video import open_video

    with open_video(bench.folder("second_video_stream_is_the_real_one") / "two_streams.mkv") as video:
        return f"{video.width}x{video.height}"


def resized(bench: Bench) -> str:
    from svfap.data.video import open_video

    with open_video(bench.folder("size_changes_midway") / "resize.webm") as video:
        read = video.read(np.arange(video.num_frames))
        same = all(np.array_equal(a, b) for a, (_, b) in zip(read, video.frames(), strict=True))
        return f"all pictures {read.shape[2]}x{read.shape[1]}, {'the same' if same else 'not the same'} in order and at random"


def small_shm(bench: Bench) -> str:
    folder = bench.only_videos("small_dev_shm")
    shell = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    done = svfap(
        "pretrain", "--manifest", "m.csv", "--out", "X", "--preset", "svfap_tiny", "--epochs", 2, "--batch_size", 16,
        "--repeats", 1, "--num_workers", 2, "--model.img_size", 64, cwd=folder, timeout_s=120,
        prefix=("unshare", "-m", "bash", "-c", shell, "--"),
    )  # fmt: skip
    return message(done, "--shm-size")


def symlinks(bench: Bench) -> str:
    folder = bench.folder("symlink_loop")
    for name in ("happy", "sad"):
        (folder / "r" / name).mkdir(parents=True)
        for n in range(4):
            film(folder / "r" / name / f"{name}{n}.mp4", n)
    (folder / "r" / "happy" / "up").symlink_to("..")
    done = svfap("prepare", "folder", "--root", "r", "--out", "X", cwd=folder)
    listed = sum(len(pd.read_csv(file)) for file in (folder / "X").glob("*.csv")) if done.status == 0 else -1
    return f"exit {done.status}, {listed} clips"


def tabs(bench: Bench) -> str:
    folder = bench.with_videos("tab_separated_csv")
    done = svfap("finetune", "--manifest", "m.csv", "--out", "run", *SMALL, cwd=folder)
    if done.status != 0:
        return message(done, "separated by tabs")
    names = json.loads((folder / "run" / "best" / "config.json").read_text())["label_names"]
    return f"exit 0, {len(names)} classes{', label among them' if 'label' in names else ''}"


def two_predicts(bench: Bench) -> str:
    folder = bench.folder("two_predicts_one_table")
    common = ("--model", bench.model, "--faces", "none")
    both = [start("predict", name, *common, cwd=folder) for name in ("a.mp4", "b.webm")]
    outputs = [process.communicate(timeout=300)[0].decode(errors="replace") for process in both]
    statuses = sorted(process.returncode for process in both)
    videos = pd.read_csv(folder / "predictions.csv")["video"].nunique()
    said = any(re.search("being written by another run|exists", text) for text in outputs)
    return f"exits {statuses[0]} and {'not 0' if statuses[1] else 0}, {'said why' if said else outputs}, table of {videos} video"


def two_trainings(bench: Bench) -> str:
    folder = bench.only_videos("two_trainings_one_folder")
    command = ("finetune", "--manifest", "m.csv", *TINY, "--epochs", 6, "--out", "two")
    both = [start(*command, cwd=folder) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].decode(errors="replace") for process in both]
    failed = [text for process, text in zip(both, outputs, strict=True) if process.returncode]
    steps = [
        json.loads(line)["step"]
        for line in (folder / "two" / "log.jsonl").read_text().splitlines()
        if '"train"' in line
    ]
    said = any("being written by another run" in text or "holds a run already" in text for text in failed)
    return (
        f"{len(failed)} refused{' with the reason' if said else ''}, {len(steps) - len(set(steps))} steps logged twice"
    )


def vfr_labels(bench: Bench) -> str:
    from svfap.data.clip_dataset import ClipDataset
    from svfap.data.manifest import read_manifest

    folder = bench.folder("vfr_frame_labels")
    manifest = read_manifest(folder / "m.csv", task="regression", dimensions=["valence"], frame_level=True)
    worst = 0.0
    for mode in ("train", "val", "test"):
        item = ClipDataset(manifest, mode, 16, 4, 32, 0, frame_level=True)[0]
        if item.reason:
            return f"refused: {item.reason}"
        for clip, targets in zip(item.clips, item.targets, strict=True):
            worst = max(worst, np.abs(clip.mean(axis=(1, 2, 3)) / 3 - of_frames(targets).ravel()).max())
    return f"targets are the numbers shown to within {'one' if worst <= 1 else round(worst, 1)}"


def hidden_frames(bench: Bench) -> str:
    from svfap.data.video import open_video

    with open_video(bench.folder("vp8_hidden_frames") / "altref.webm") as video:
        read = video.read(np.arange(video.num_frames))
        return f"{len(read)} pictures, {video.fps:.4g}/s, {sum(1 for _ in video.frames())} in order"


# Case: (what is expected, how it is observed).
CASES: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "checkpoints_with_other_names_or_objects": (
        "15 of 17 read, refused with the reason: html.pth, lfs.pth",
        checkpoints,
    ),
    "composed_and_decomposed_names": ("exit 0, 2 rows", unicode_forms),
    "disk_full_in_training": (
        "exit 1, says cannot be written; checkpoint kept; with space --resume exits 0",
        disk_full,
    ),
    "duplicate_timestamp": (
        "last end_s 9.53 without and last end_s 9.53 with the fault, times differ by at most 0.1 s",
        duplicate_stamp,
    ),
    "folders_of_a_nas": ("exit 0, 10 clips", nas_folders),
    "frame_folder_with_holes": ("targets differ from the numbers shown by at most 0", holes),
    "frames_of_several_sizes": ("exit 0, 1 rows", several_sizes),
    "git_lfs_pointer": ("exit 1, says git-lfs pointer, not the video; run git lfs pull", git_lfs),
    "high_frame_rate": ("windows last as in training (or as long as the file), said", high_frame_rate),
    "joined_ts_of_two_rates": ("last end_s 6.00, 0 windows across the joint", joined),
    "labels_counted_from_one": ("m17.csv: named; one.csv: named; casev.csv: named", from_one),
    "list_with_three_columns": ("exit 0, says three columns", three_columns),
    "marks_of_invalid_frames": (
        "undeclared: exit 1, says invalid_marks; declared: left out; label -1: exit 0",
        marks,
    ),
    "names_that_are_not_utf8": (
        "predict exit 0, the same rows as under another name; crop exit 0; extract exit 0",
        odd_names,
    ),
    "non_square_pixels": ("sar.mp4 640x360, o.mp4 640x360", non_square),
    "odd_encodings_of_text": ("info exit 0; config: exit 2, says is not UTF-8 text", odd_text),
    "pause_in_recording": ("4 rows, none in the pause, last end_s 64.80", pause),
    "raw_h264_rate": ("last end_s 2.40", raw_rate),
    "resume_with_other_manifest": ("fewer rows: refused; renamed class: refused; class removed: refused", resumed),
    "second_video_stream_is_the_real_one": ("640x360", second_stream),
    "size_changes_midway": ("all pictures 640x360, the same in order and at random", resized),
    "small_dev_shm": ("exit 1, says --shm-size", small_shm),
    "symlink_loop": ("exit 0, 8 clips", symlinks),
    "tab_separated_csv": ("exit 0, 2 classes", tabs),
    "two_predicts_one_table": ("exits 0 and not 0, said why, table of 1 video", two_predicts),
    "two_trainings_one_folder": ("1 refused with the reason, 0 steps logged twice", two_trainings),
    "vfr_frame_labels": ("targets are the numbers shown to within one", vfr_labels),
    "vp8_hidden_frames": ("72 pictures, 30/s, 72 in order", hidden_frames),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of cases")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="some of the cases")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(args.folder.absolute(), Path(work))
        print("| case | expected | observed | equal |\n| --- | --- | --- | --- |")
        for case in args.only or CASES:
            expected, observe = CASES[case]
            try:
                observed = observe(bench)
            except Exception as error:  # one line of the table, whatever went wrong
                traceback.print_exc(limit=-2)
                observed = f"{type(error).__name__}: {error}"
            wrong += observed != expected
            cells = (case, expected, " ".join(observed.split()), "yes" if observed == expected else "**no**")
            print("|", " | ".join(cell.replace("|", "/") for cell in cells), "|", flush=True)
    print(f"\n{len(args.only or CASES) - wrong} of {len(args.only or CASES)} as expected")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
