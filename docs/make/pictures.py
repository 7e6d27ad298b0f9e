"""The pictures of the README: synthetic faces, and small models that are trained on them in a few minutes.

    python docs/make/pictures.py        # data and models go to runs/pictures, pictures to docs/pictures; runs again continue

The screenshot of the page needs Chromium (`chromium` or `google-chrome` on the path); without it that picture is left as it is.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

import svfap
from svfap.data.video import open_video, write_video

ROOT = Path(__file__).resolve().parents[2]
RUNS, PICTURES = ROOT / "runs" / "pictures", ROOT / "docs" / "pictures"
LABELS = ["happy", "neutral", "sad", "surprise"]
SHAPE: dict[str, Any] = {"num_frames": 8, "img_size": 48, "patch_size": 12, "sampling_stride": 5}


def write_data() -> None:
    """Videos to train on, with mild nuisance and strong expressions, and larger ones of people who are not in them."""
    common = {"nuisance": 0.05, "expression_gain": 1.6, "num_pretrain": 0, "num_workers": 2}
    svfap.synthesize(
        svfap.SynthConfig(out=RUNS / "data", size_px=64, num_train=840, num_val=70, num_test=0, seed=7, **common)
    )
    svfap.synthesize(
        svfap.SynthConfig(
            out=RUNS / "large", size_px=360, num_frames=75, num_train=0, num_val=0, num_test=14, seed=3, **common
        )
    )
    for part in ("train", "val"):
        table = pd.read_csv(RUNS / "data" / f"{part}.csv")
        table[table["label"].isin(LABELS)].to_csv(RUNS / "data" / f"{part}_of_four.csv", index=False)


def train() -> None:
    """A masked autoencoder and a classifier of four expressions; a finished run is kept."""
    common: dict[str, Any] = {"preset": "svfap_tiny", "precision": "fp32", "sampling_stride": 5, "resume": True}
    model = {name: value for name, value in SHAPE.items() if name != "sampling_stride"}
    encoder = {**model, "embed_dim": 96, "num_heads": 3, "stage_depths": (2, 1, 1), "bottleneck_hidden_dim": 64}
    svfap.pretrain(
        svfap.PretrainConfig(
            out=RUNS / "pretrain",
            manifest=RUNS / "data" / "train.csv",
            model={**encoder, "decoder_embed_dim": 64, "decoder_num_heads": 2},
            mask_ratio=0.75,
            crop_scales=(1.0, 0.9),
            epochs=30,
            warmup_epochs=2,
            batch_size=32,
            repeats=2,
            base_lr=0.012,
            **common,
        )
    )
    svfap.finetune(
        svfap.FinetuneConfig(
            out=RUNS / "finetune",
            manifest=RUNS / "data" / "train_of_four.csv",
            val_manifest=RUNS / "data" / "val_of_four.csv",
            model={**encoder, "fuse_stages": True},
            epochs=30,
            warmup_epochs=2,
            batch_size=24,
            base_lr=0.01,
            layer_decay=1.0,
            drop_path_rate=0.0,
            mixup=0.0,
            cutmix=0.0,
            rand_augment=False,
            erase_rate=0.0,
            crop_scale=(0.9, 1.0),
            smoothing=0.05,
            **common,
        )
    )


def join_videos() -> Path:
    """One person's clips, an expression each, one after the other, in front of a wall."""
    table = pd.read_csv(RUNS / "large" / "test.csv")
    person = table[(table["subject"] == table["subject"].iloc[0]) & table["label"].isin(LABELS)]
    frames = []
    for path in [*person["path"], *person["path"]]:
        with open_video(RUNS / "large" / path) as video:
            frames.append(video.read(np.arange(video.num_frames)))
    joined = np.concatenate(frames)
    wide = np.full((len(joined), 400, 640, 3), joined[0, 4, 4], np.uint8)
    wide[:, 20:380, 140:500] = joined
    out = RUNS / "interview.mp4"
    write_video(out, wide, fps=25)
    return out


def picture_of_overlay(video: Path) -> None:
    """Predict, and take the overlay's frame at the most certain prediction; the page is written as well."""
    config = svfap.PredictConfig(
        model=str(RUNS / "finetune"),
        out=RUNS / "prediction" / "affect.csv",
        overlay=RUNS / "prediction" / "overlay.mp4",
        report=RUNS / "prediction" / "page.html",
        faces="haar",
        hop_s=0.4,
    )
    with contextlib.chdir(video.parent):  # the page shows names as they were given
        done = svfap.predict_videos([video.name], config)
    assert not done.failures and done.table["track"].nunique() == 1
    with open_video(RUNS / "prediction" / "overlay.mp4") as overlay:
        row = done.table.loc[done.table[done.values].max(axis=1).idxmax()]
        frame = overlay.read(np.array([round((row["start_s"] + row["end_s"]) / 2 * overlay.fps)]))[0]
    cv2.imwrite(str(PICTURES / "overlay.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def picture_of_page() -> None:
    """A screenshot of the upper part of the page."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium: the picture of the page is left as it is")
        return
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
    target = PICTURES / "affect_page.png"
    command = [browser, *flags, "--window-size=1100,900", "--virtual-time-budget=3000", f"--screenshot={target}"]
    page = (RUNS / "prediction" / "page.html").resolve().as_uri()
    subprocess.run([*command, f"--user-data-dir={RUNS / 'browser'}", page], check=True, capture_output=True)
    cv2.imwrite(str(target), cv2.imread(str(target))[:760])  # what is below is cut off by the browser's window


def picture_of_reconstruction() -> None:
    """Original, masked and reconstructed frames of a validation video."""
    video = RUNS / "data" / pd.read_csv(RUNS / "data" / "val.csv")["path"].iloc[0]
    svfap.reconstruct(video, svfap.ReconstructConfig(model=str(RUNS / "pretrain"), out=RUNS / "reconstruction"))
    shutil.copyfile(RUNS / "reconstruction" / "reconstruction.png", PICTURES / "reconstruction.png")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    write_data()
    train()
    picture_of_overlay(join_videos())
    picture_of_page()
    picture_of_reconstruction()
