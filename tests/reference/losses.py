"""Reference losses: a small pre-training and a small fine-tuning on pictures drawn by integer arithmetic.

    python tests/reference/losses.py            # print the losses as JSON
    python tests/reference/losses.py --check    # compare with losses.json bit by bit; exit status 1 if they differ
    python tests/reference/losses.py --write    # store them; only if a change of training is intended

Both are there in two lengths; the short one takes seconds, for the tests. A refactoring must not change any bit. The
runs use one thread and the oldest instruction set of each library, so that results depend on the processor as little
as the libraries allow.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_name("losses.json")
OLDEST_INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
NUM_VIDEOS, NUM_FRAMES, SIZE_PX = 24, 40, 40
LENGTHS = ("short", "long")
SHARED = {"preset": "svfap_debug", "precision": "fp32", "num_workers": 0, "sampling_stride": 2, "seed": 3}


def draw_videos(folder: Path) -> Path:
    """Write folders of PNG frames and a manifest: three classes that differ in how a square moves."""
    import cv2
    import numpy as np

    rows = ["path,label,subject"]
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    for number in range(NUM_VIDEOS):
        label = number % 3
        place = folder / f"video_{number:02d}"
        place.mkdir(parents=True)
        ground = (7 * x + 5 * y + 31 * number) % 97 + 60
        for frame in range(NUM_FRAMES):
            picture = np.stack([ground, (ground * 3 + number) % 151 + 50, (ground + 2 * x) % 120 + 80], axis=2)
            left = 4 + ((frame * (label + 1)) // 2 + number) % 24
            top = 6 + (frame * (2 - label) // 2 + 3 * number) % 22
            picture[top : top + 10, left : left + 10] = (220, 40 + 60 * label, 30 + 5 * number)
            cv2.imwrite(str(place / f"{frame:03d}.png"), picture.astype(np.uint8))
        rows.append(f"{place.name},{'abc'[label]},person_{number // 2}")
    manifest = folder / "videos.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def run_both(folder: Path, length: str) -> dict[str, Any]:
    """Pre-train, fine-tune from the result, and return all logged losses, gradient norms and validation scores."""
    import torch

    from svfap.train.config import FinetuneConfig, PretrainConfig
    from svfap.train.finetune import finetune
    from svfap.train.pretrain import pretrain

    torch.set_num_threads(1)
    manifest = draw_videos(folder / "data")
    pretrain(
        PretrainConfig(
            out=folder / "pretrain",
            manifest=manifest,
            epochs=10 if length == "long" else 2,
            warmup_epochs=2 if length == "long" else 1,
            batch_size=12,
            repeats=2,
            accumulate_steps=2,
            base_lr=0.02,
            **SHARED,
        )
    )
    finetune(
        FinetuneConfig(
            out=folder / "finetune",
            manifest=manifest,
            init=str(folder / "pretrain"),
            epochs=7 if length == "long" else 2,
            warmup_epochs=1,
            batch_size=6,
            base_lr=0.05,
            val_fraction=0.25,
            ema_decay=0.9,
            clip_grad=5.0,
            **SHARED,
        )
    )
    return {name: _log(folder / name) for name in ("pretrain", "finetune")}


def machine() -> dict[str, str]:
    """Versions and hardware on which the last bits may depend."""
    import cv2
    import numpy
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    versions = {"torch": torch.__version__, "numpy": numpy.__version__, "opencv": cv2.__version__}
    return {**versions, "machine": platform.machine(), "processor": processor}


def in_subprocess(*lengths: str) -> dict[str, Any]:
    """Results of `run_both`, by length, and of `machine` in a new process with the oldest instruction sets."""
    environment = {**os.environ, **OLDEST_INSTRUCTIONS}
    command = [sys.executable, __file__, "--here", *lengths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _log(run: Path) -> dict[str, list[float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    scores = [record["uar"] for record in records if "uar" in record]
    return {"loss": [s["loss"] for s in steps], "grad_norm": [s["grad_norm"] for s in steps], "uar": scores}


def main() -> int:
    if "--here" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            found = {length: run_both(Path(folder) / length, length) for length in LENGTHS if length in sys.argv}
        print(json.dumps({"machine": machine(), **found}))
        return 0
    found = in_subprocess(*LENGTHS)
    if "--write" in sys.argv:
        STORED.write_text(json.dumps(found, indent=1) + "\n")
    elif "--check" in sys.argv:
        stored = json.loads(STORED.read_text())
        same = all(found[length] == stored[length] for length in LENGTHS)
        print("identical to the last bit" if same else f"different\nstored: {stored}\nfound: {found}")
        return 0 if same else 1
    else:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
