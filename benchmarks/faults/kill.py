"""Kill running commands at random moments, go on, and compare the result with that of an unbroken run.

    python benchmarks/faults/kill.py --training 100 --crop 15 --predict 15

A process is killed with SIGKILL, as by the system's lack of memory or a power cut, and the same command is started again
with --resume, until it ends by itself; then a new run begins, until enough kills are made. Processes are forked from one
that has imported torch, so that kills hit the work and not the imports. Losses, metrics and weights must be equal to the last
bit, rows of predictions to 1e-6: windows of several videos share a batch, and after a kill they share other ones.
Prints a Markdown table; the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from workbench import film, save_model, training_set

Result = dict[str, Any]


def train(folder: Path, out: Path) -> None:
    """Fine-tuning with everything that has a state: EMA, accumulation, validation, checkpoints within epochs."""
    from svfap.train.config import FinetuneConfig
    from svfap.train.finetune import finetune

    config = FinetuneConfig(
        manifest=folder / "m.csv", out=out, resume=True, preset="svfap_debug", epochs=6, warmup_epochs=1, batch_size=4,
        accumulate_steps=2, ema_decay=0.9, save_every_steps=2, num_workers=0, precision="fp32", seed=3,
        model={"sampling_stride": 2},
    )  # fmt: skip
    finetune(config)


def crop(folder: Path, out: Path) -> None:
    from svfap.crop.config import CropConfig
    from svfap.crop.crop import crop_videos

    crop_videos([folder / "long"], CropConfig(out=out, faces="haar", size_px=48))


def predict(folder: Path, out: Path) -> None:
    from svfap.predict.config import PredictConfig
    from svfap.predict.predict import predict_videos

    table = out / "affect.csv"
    out.mkdir(exist_ok=True)
    config = PredictConfig(
        model=str(folder / "model"), out=table, resume=True, faces="none", hop_s=0.2, batch_size=4, precision="fp32"
    )
    predict_videos([str(path) for path in sorted((folder / "long").iterdir())], config)


def trained(out: Path) -> Result:
    """Every logged number of every step, and the scores; not the times."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    metrics = json.loads((out / "metrics.json").read_text())
    return {
        "log": lines,
        "metrics": {name: value for name, value in metrics.items() if name != "seconds"},
        "best": hashlib.sha256((out / "best" / "model.safetensors").read_bytes()).hexdigest(),
    }


def cropped(out: Path) -> Result:
    """All tables, and the number of pictures of every clip; x264 does not encode a picture the same way every time."""
    from svfap.data.video import open_video

    found: Result = {str(path.relative_to(out)): path.read_text() for path in sorted(out.rglob("*.csv"))}
    for path in sorted(out.rglob("*.mp4")):
        with open_video(path) as video:
            found[str(path.relative_to(out))] = video.num_frames, video.height, video.width
    return found


def predicted(out: Path) -> Result:
    """The table: its texts, and its numbers to 1e-6."""
    import pandas as pd

    table = pd.read_csv(out / "affect.csv")
    return {"videos": table["video"].tolist(), "numbers": Numbers(table.drop(columns="video").to_numpy())}


class Numbers:
    """An array that equals another one to 1e-6."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and np.allclose(self.array, other.array, rtol=0, atol=1e-6)


def leftovers(out: Path) -> list[str]:
    """Temporary files that no run will remove."""
    return [
        path.name for path in out.rglob("*") if path.name.startswith(".") or path.suffix in (".part", ".new", ".old")
    ]


KINDS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], Result]]] = {
    "training": (train, trained),
    "crop": (crop, cropped),
    "predict": (predict, predicted),
}


def attempt(kind: str, folder: Path, out: Path) -> None:
    """The work of one process; what it prints goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import torch

    torch.set_num_threads(1)
    KINDS[kind][0](folder, out)


def kill_often(kind: str, number: int, folder: Path, seed: int) -> list[str]:
    """Make that many kills; returns the cells of the table's row."""
    context = multiprocessing.get_context("forkserver")
    _, result = KINDS[kind]
    rng, work = random.Random(seed), folder / kind
    work.mkdir()

    def go(out: Path, after_s: float | None) -> tuple[int | None, float]:
        process = context.Process(target=attempt, args=(kind, folder, out))
        began = time.monotonic()
        process.start()
        process.join(after_s)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return process.exitcode, time.monotonic() - began

    status, _ = go(work / "warm", None)
    status, whole_s = go(work / "unbroken", None)
    if status != 0:
        raise RuntimeError(f"{kind}: the unbroken run ended with {status}")
    expected = result(work / "unbroken")
    kills = ended = errors = differ = left = 0
    while kills < number:
        out = work / f"run_{ended}"
        while True:
            # Up to the length of a whole run: some runs are killed several times, others end.
            status, _ = go(out, rng.uniform(0, whole_s) if kills < number else None)
            kills += status == -signal.SIGKILL
            errors += status not in (0, -signal.SIGKILL)
            if status != -signal.SIGKILL:
                break
        ended += 1
        if status == 0:
            differ += result(out) != expected
            left += len(leftovers(out))
        print(f"{kind}: {kills} kills, {ended} runs ended, {differ} differ, {errors} errors", flush=True)
    return [kind, str(kills), str(ended), str(errors), str(differ), str(left), f"{whole_s:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, number in (("training", 100), ("crop", 15), ("predict", 15)):
        parser.add_argument(f"--{kind}", type=int, default=number, help=f"kills; default: {number}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    multiprocessing.set_forkserver_preload(["svfap.train.finetune", "svfap.crop.crop", "svfap.predict.predictor"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training_set(folder)
        save_model(folder / "model")
        (folder / "long").mkdir()
        for n in range(6):
            film(folder / "long" / f"v{n}.mp4", n, number=150)
        kinds = [kind for kind in KINDS if getattr(args, kind)]
        rows = [kill_often(kind, getattr(args, kind), folder, args.seed) for kind in kinds]
    print("\n| work | kills | runs ended | errors | results that differ | files left | seconds unbroken |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print("|", " | ".join(row), "|")
    raise SystemExit(any(row[3:6] != ["0", "0", "0"] for row in rows))


if __name__ == "__main__":
    main()
