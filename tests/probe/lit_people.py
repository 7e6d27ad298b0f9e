"""Videos in which a value of the person and of the moment is the brightness of a spot, and a prepared dataset of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import write_video
from svfap.model.build import create_model

HEADER = "path,label,valence,arousal,subject,split,frame_values"
PARTS = {"train": 8, "val": 3, "test": 5}  # people
PER_PERSON, NUM_FRAMES = 4, 24


def write_people(folder: Path) -> Path:
    """`m.csv` and `all.csv` of all, train.csv, val.csv and test.csv, and the datasets dataset_labels/,
    dataset_values/ and dataset_frames/."""
    rng = np.random.default_rng(0)
    (folder / "frames").mkdir(parents=True)
    texture, lines, person = rng.integers(0, 40, (32, 32)), {}, 0
    for part, number in PARTS.items():
        lines[part] = []
        for _ in range(number):
            level = rng.uniform(-0.4, 0.4)
            for clip in range(PER_PERSON):
                inside = (clip - 1.5) / 4 + rng.normal() * 0.03
                course = level + inside + 0.3 * np.sin(np.arange(NUM_FRAMES) / 3)
                name = f"p{person}_{clip}"
                pictures = np.repeat(texture[None], NUM_FRAMES, axis=0).astype(float)
                pictures[:, 8:24, 8:24] += (110 + 60 * course)[:, None, None]
                frames = np.repeat(pictures.clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)
                write_video(folder / f"{name}.mp4", iter(frames), 25)
                values = np.stack([course, rng.normal(size=NUM_FRAMES)], axis=1)
                np.savetxt(
                    folder / "frames" / f"{name}.csv", values, delimiter=",", header="valence,arousal", comments=""
                )
                label = ("low", "high")[int(level + inside > 0)]
                cells = (f"{name}.mp4", label, f"{level + inside:.4f}", f"{rng.normal():.4f}", f"s{person}", part)
                lines[part].append(",".join((*cells, f"frames/{name}.csv")))
            person += 1
    for part in PARTS:
        (folder / f"{part}.csv").write_text("\n".join([HEADER, *lines[part]]) + "\n")
    (folder / "m.csv").write_text("\n".join([HEADER, *(line for part in lines.values() for line in part)]) + "\n")
    everybody = (folder / "m.csv").read_text().splitlines()  # the same without the column split
    cells = [line.split(",") for line in everybody]
    (folder / "all.csv").write_text("".join(",".join([*row[:5], row[6]]) + "\n" for row in cells))
    for name, task, names, level in (
        ("labels", "classification", ("low", "high"), False),
        ("values", "regression", ("valence", "arousal"), False),
        ("frames", "regression", ("valence", "arousal"), True),
    ):
        described = folder / f"dataset_{name}"
        described.mkdir()
        folds = (Fold("1", Path("../train.csv"), Path("../test.csv"), Path("../val.csv")),)
        dataset = PreparedDataset(
            name,
            "Lit people",
            task,
            Path(".."),
            names,
            folds,
            Path("../train.csv"),
            sampling_stride=1,
            frame_level=level,
        )
        write_dataset_file(described, dataset)
    return folder


def save_encoder(folder: Path, task: str = "pretraining", seed: int = 3, **settings) -> Path:
    """A model of 16 successive frames with random weights."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    create_model("svfap_debug", task, sampling_stride=1, **settings).save_pretrained(folder)
    return folder
