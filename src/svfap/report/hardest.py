"""The test videos that a model gets most wrong, and pictures of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from svfap.errors import UserError
from svfap.report.runs import Run
from svfap.report.videos import TestVideos
from svfap.view.page import Card, Section
from svfap.view.thumbnail import thumbnail

NUM_FRAMES, SIZE_PX = 4, 112
SPAN = 64  # frames of the video that a thumbnail covers: as many as a clip of the paper


def rank_by_difficulty(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of `predictions.csv`, the hardest first, with two columns more: `badness` and `verdict`.

    Classification: badness is 1 - probability of the true class. Regression: the absolute error, averaged over
    dimensions. verdict: for readers, what was true and what was said. Raises `UserError` if it has no truth.
    """
    classes = [c.removeprefix("prob_") for c in predictions.columns if c.startswith("prob_")]
    dimensions = [c.removeprefix("target_") for c in predictions.columns if c.startswith("target_")]
    table = predictions.copy()
    if classes and "label" in table:
        places = [classes.index(name) for name in table["label"]]
        probabilities = table[[f"prob_{name}" for name in classes]].to_numpy(float)
        true = probabilities[np.arange(len(table)), places]
        table["badness"] = 1 - true
        table["verdict"] = [
            f"{label}, given {100 * p:.1f}%; predicted: {said} ({100 * top:.1f}%)"
            for label, p, said, top in zip(table["label"], true, table["prediction"], probabilities.max(1), strict=True)
        ]
    elif dimensions:
        truth, said = (table[[f"{kind}_{n}" for n in dimensions]].to_numpy(float) for kind in ("target", "pred"))
        table["badness"] = np.abs(said - truth).mean(axis=1)
        table["verdict"] = [
            "; ".join(f"{name} {t[k]:.2f}, predicted {s[k]:.2f}" for k, name in enumerate(dimensions))
            for t, s in zip(truth, said, strict=True)
        ]
    else:
        raise UserError("the predictions hold no truth to compare with")
    return table.sort_values("badness", ascending=False, kind="stable").reset_index(drop=True)


def hardest_section(run: Run, number: int) -> Section | None:
    """The `number` hardest test videos as thumbnails, of all folds; None for a run without predictions and truth."""
    if run.predictions is None or not len(run.predictions) or number < 1:
        return None
    try:
        ranked = rank_by_difficulty(run.predictions).head(number)
    except UserError:
        return None
    sources = {one.name: one for one in run.folds or [run]}
    videos: dict[str, TestVideos | str] = {}
    for name, one in sources.items():
        try:
            videos[name] = TestVideos(one)
        except UserError as error:
            videos[name] = str(error)
    cards = []
    for row in ranked.to_dict("records"):
        name = row.get("fold", run.name)
        lines = [str(row["verdict"]), f"{row['path']}{f' (fold {name})' if run.folds else ''}"]
        source, jpeg = videos[name], None
        if isinstance(source, TestVideos):
            try:
                jpeg = thumbnail(source.clip(str(row["path"]), NUM_FRAMES, SPAN // NUM_FRAMES, SIZE_PX))
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
