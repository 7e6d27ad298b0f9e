"""The test videos of a run: which have the largest errors, and their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.evaluation.predictions import labelled_outputs
from svfap.reports.runs import Run
from svfap.view.page import Card, Section
from svfap.view.thumbnail import thumbnail

NUM_FRAMES, SIZE_PX = 4, 112
SPAN = 64  # frames of the video that a thumbnail covers, as a clip of the paper does


def rank_by_difficulty(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of `predictions.csv`, those with the largest error first, with the columns `difficulty` and `description`.

    difficulty: for classes, 1 - probability of the true class; for values, the absolute error averaged over dimensions.
    description: truth and prediction as text. Raises `UserError` if the table has no truth.
    """
    found = labelled_outputs(predictions, "predictions")
    if found is None:
        raise UserError("the predictions have no truth to compare with")
    task, names, targets, outputs = found
    if task == "classification":
        true = outputs[np.arange(len(outputs)), targets]
        difficulty = 1 - true
        description = [
            f"{names[k]}, given {100 * p:.1f}%; predicted: {names[row.argmax()]} ({100 * row.max():.1f}%)"
            for k, p, row in zip(targets, true, outputs, strict=True)
        ]
    else:
        difficulty = np.abs(outputs - targets).mean(axis=1)
        description = [
            "; ".join(f"{name} {t[k]:.2f}, predicted {p[k]:.2f}" for k, name in enumerate(names))
            for t, p in zip(targets, outputs, strict=True)
        ]
    table = predictions.assign(difficulty=difficulty, description=description)
    return table.sort_values("difficulty", ascending=False, kind="stable").reset_index(drop=True)


class RunVideos:
    """The videos of the manifest that a run was evaluated on, by the keys in `predictions.csv`.

    Only videos of the manifest are opened, never a path from the predictions. Raises `UserError` if the metrics name no
    manifest, or it does not exist or cannot be read.
    """

    def __init__(self, run: Run) -> None:
        manifest, root, split = (run.metrics.get(key) for key in ("manifest", "root", "split"))
        if not manifest or not Path(str(manifest)).is_file():
            raise UserError(f"its manifest ({manifest or 'not named in its metrics'}) cannot be found")
        try:
            self._manifest = read_manifest(manifest, root=root, task="unlabelled", split=split)
        except UserError:  # its message may quote a file that is not a manifest
            raise UserError(f"its manifest ({manifest}) cannot be read") from None
        self._rows = {self._manifest[i].key: i for i in range(len(self._manifest))}

    def clip(self, key: str, num_frames: int, stride: int, size: int, frame_fit: str = "centre") -> NDArray[np.uint8]:
        """The clip of validation, the middle of the video: uint8 (num_frames, size, size, 3).

        stride: frames of the video from one frame of the clip to the next. frame_fit: see `fit_frames`. Raises
        `UserError` if the video cannot be read.
        """
        if key not in self._rows:
            raise UserError("not in the manifest")
        clips = ClipDataset(self._manifest, "val", num_frames, stride, size, seed=0, frame_fit=frame_fit)
        item = clips[self._rows[key]]
        if item.reason is not None:
            raise UserError(item.reason)
        return item.clips[0]

    def strip(self, key: str) -> NDArray[np.uint8]:
        """`NUM_FRAMES` frames of the middle `SPAN` of a video, of a shorter one nearer to each other, so that none repeats
        if there are as many. Raises as `clip` does."""
        stride = SPAN // NUM_FRAMES
        while True:
            clip = self.clip(key, NUM_FRAMES, stride, SIZE_PX)
            repeats = (clip[1:] == clip[:-1]).all(axis=(1, 2, 3)).any()
            if stride == 1 or not repeats:
                return clip
            stride //= 2


def hard_examples_section(run: Run, number: int) -> Section | None:
    """The `number` most difficult test videos of all folds, as thumbnails; None without predictions or truth."""
    if number < 1 or run.labelled() is None:
        return None
    ranked = rank_by_difficulty(run.predictions).head(number)
    videos: dict[str, RunVideos | str] = {}
    for part in run.parts:
        try:
            videos[part.name] = RunVideos(part)
        except UserError as error:
            videos[part.name] = str(error)
    cards = []
    for row in ranked.to_dict("records"):
        name = row.get("fold", run.name)
        lines = [str(row["description"]), f"{row['path']}{f' (fold {name})' if run.folds else ''}"]
        source, jpeg = videos[name], None
        if isinstance(source, RunVideos):
            try:
                jpeg = thumbnail(source.strip(str(row["path"])))
            except UserError as error:
                lines.append(f"no picture: {error}")
        alt = f"{NUM_FRAMES} frames of {row['path']}" if jpeg else f"no picture of {row['path']}"
        cards.append(Card(jpeg, alt, lines))
    text = (
        "Lowest probability of the true class first."
        if "label" in run.predictions
        else "Largest absolute error first, averaged over the dimensions."
    )
    if reasons := sorted({source for source in videos.values() if isinstance(source, str)}):
        text += f" No pictures: {'; '.join(reasons)}."
    return Section(f"The {len(cards)} hardest videos", text, cards=cards)
