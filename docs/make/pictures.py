"""The pictures of the README: synthetic faces, and small models that are trained on them in a few minutes.

    python docs/make/pictures.py        # data and models go to runs/pictures, pictures to docs/pictures; runs again continue

The screenshots of the page and of the app need Chromium (`chromium` or `google-chrome` on the path); without it they are left as
they are.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import uvicorn
from playwright.sync_api import Page, sync_playwright

import svfap
from svfap.data.video import open_video, write_video
from svfap.serve.api import make_app
from svfap.serve.client import Client
from svfap.serve.config import AppConfig

ROOT = Path(__file__).resolve().parents[2]
RUNS, PICTURES = ROOT / "runs" / "pictures", ROOT / "docs" / "pictures"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TOKEN = "a token of the pictures"
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
    with browser_page(1100, 760) as page:
        page.goto((RUNS / "prediction" / "page.html").resolve().as_uri())
        page.screenshot(path=PICTURES / "affect_page.png")


def picture_of_app(video: Path) -> None:
    """A screenshot of a video in the app, at the most certain prediction."""
    table = pd.read_csv(RUNS / "prediction" / "affect.csv")
    best = table.loc[table.filter(like="prob_").max(axis=1).idxmax()]
    shutil.rmtree(RUNS / "app", ignore_errors=True)
    config = AppConfig(folder=RUNS / "app", token=TOKEN, models=[str(RUNS / "finetune")])
    server = uvicorn.Server(uvicorn.Config(make_app(config, TOKEN), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with Client(TOKEN, address) as client:
            client.wait(client.submit(video, faces="haar", hop_s=0.4)["id"])
        with browser_page(1280, 800) as page:
            page.goto(f"{address}/?key={TOKEN}")
            page.get_by_role("button", name=f"Open: {video.name}").click()
            page.frame_locator("#timelines").locator("svg.plot path").first.wait_for()
            time_s = (best["start_s"] + best["end_s"]) / 2
            page.locator("#player").evaluate("(player, time_s) => { player.currentTime = time_s; }", time_s)
            page.mouse.move(0, 0)  # away from the player, whose controls hide then
            page.wait_for_timeout(4000)
            page.screenshot(path=PICTURES / "app.png")
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def browser_page(width: int, height: int) -> Iterator[Page]:
    """A page of this size in Chromium."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM) as browser:
        yield browser.new_page(viewport={"width": width, "height": height})


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
    if CHROMIUM is None:
        print("no Chromium: the pictures of the page and of the app are left as they are")
    else:
        picture_of_page()
        picture_of_app(RUNS / "interview.mp4")
    picture_of_reconstruction()
