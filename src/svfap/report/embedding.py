"""What a model's features are near: a map of them, and whether neighbours share the label or the face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances

from svfap.report.runs import RUN_FILES, Run
from svfap.view.figures.base import PALETTE, legend_name, new_figure, styled
from svfap.view.page import Picture, Section

MAX_CLIPS = 5000  # t-SNE and all pairs of them take about a minute of one core
MIN_FOR_TSNE = 30
MARKERS = "os^DvPX*<>ph"


def subsample(num_clips: int) -> NDArray[np.int64]:
    """All clips, or `MAX_CLIPS` of them drawn with a fixed seed; ascending."""
    if num_clips <= MAX_CLIPS:
        return np.arange(num_clips)
    return np.sort(np.random.default_rng(0).choice(num_clips, MAX_CLIPS, replace=False))


def project(features: ArrayLike) -> tuple[NDArray[np.float64], str]:
    """(N, D) -> (N, 2) and how: t-SNE of the first 50 principal components, or, below `MIN_FOR_TSNE` clips, PCA."""
    values = np.asarray(features, np.float64)
    if len(values) < MIN_FOR_TSNE:
        components = PCA(min(2, *values.shape)).fit_transform(values)
        flat = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
        return flat, "PCA: too few clips for the neighbourhoods of t-SNE."
    reduced = PCA(min(50, *values.shape), random_state=0).fit_transform(values)
    perplexity = min(30, len(values) // 5)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return places, (
        f"t-SNE (perplexity {perplexity}), as the question is who is whose neighbour: near means alike, while the "
        "distances between groups and the axes mean nothing."
    )


def neighbour_table(
    features: ArrayLike, labels: Sequence[str] | None, subjects: Sequence[str] | None
) -> list[dict[str, Any]]:
    """How often a clip's nearest neighbour (leave-one-out 1-NN, cosine distance about the mean) shares something.

    Chance is the same share over all pairs that could be neighbours, so that 1-NN of features that say nothing gives it.
    The third row lets a clip choose among other subjects' clips alone, so the face neither helps nor hinders. Clips whose
    subject is unknown ('') stay out of rows about subjects.

    features: (N, D); labels, subjects: N names or None. Rows without any pair to judge are left out.
    """
    values = np.asarray(features, np.float64)
    distances = pairwise_distances(values - values.mean(axis=0), metric="cosine")
    rows = []

    def judge(what: str, shared: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> None:
        allowed = allowed & ~np.eye(len(values), dtype=bool)
        clips = np.flatnonzero(allowed.any(axis=1))
        if not len(clips):
            return
        nearest = np.where(allowed, distances, np.inf).argmin(axis=1)
        hits = shared[clips, nearest[clips]].mean()
        chance = ((shared & allowed).sum(axis=1)[clips] / allowed.sum(axis=1)[clips]).mean()
        rows.append(
            {
                "the nearest neighbour shares": what,
                "1-NN, %": f"{100 * hits:.1f}",
                "chance, %": f"{100 * chance:.1f}",
                "clips": len(clips),
            }
        )

    known = np.array([bool(s) for s in subjects]) if subjects is not None else np.zeros(len(values), bool)
    both = known[:, None] & known[None, :]
    same_label, same_subject = (None if names is None else _same(names) for names in (labels, subjects))
    if same_label is not None:
        judge("the label", same_label, np.ones_like(both))
    if same_subject is not None:
        judge("the subject", same_subject, both)
        if same_label is not None:
            judge("the label, among other subjects", same_label, both & ~same_subject)
    return rows


@styled
def embedding_map(places: NDArray[np.float64], by: dict[str, Sequence[str] | NDArray[np.float64]]) -> Figure:
    """One map of (N, 2) places for each entry of `by`: its title -> N names, or N numbers, that colour the points."""
    figure, panels = new_figure(4.9 * len(by), 4.9, 1, len(by))
    for axes, (title, values) in zip(panels, by.items(), strict=True):
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            points = axes.scatter(places[:, 0], places[:, 1], s=20, c=values, cmap="cividis", linewidths=0, alpha=0.9)
            bar = figure.colorbar(points, ax=axes, shrink=0.7, location="bottom", pad=0.02)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        else:
            _coloured(axes, places, [str(value) for value in values])
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left")
    return figure


def _coloured(axes: Axes, places: NDArray[np.float64], names: Sequence[str]) -> None:
    """Points in the colour and mark of their name; beyond as many as there are colours the rarest are grey."""
    common = [name for name, _ in Counter(name for name in names if name).most_common(len(PALETTE))]
    listed = sorted(common) if len(set(names)) > len(PALETTE) else list(dict.fromkeys(n for n in names if n))
    array = np.array(names, dtype=object)
    rest = ~np.isin(array, listed)
    if rest.any():
        others = f"{len(set(array[rest]))} others"
        axes.scatter(places[rest, 0], places[rest, 1], s=14, color="#C9D1D9", linewidths=0, label=others)
    for k, name in enumerate(listed):
        x, y = places[array == name].T
        style: dict[str, Any] = {"color": PALETTE[k], "marker": MARKERS[k % len(MARKERS)], "alpha": 0.85}
        axes.scatter(x, y, s=22, linewidths=0, label=legend_name(name), **style)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8)


def _same(names: Sequence[str]) -> NDArray[np.bool_]:
    codes = pd.factorize(np.array([str(name) for name in names], dtype=object))[0]
    return codes[:, None] == codes[None, :]


def embedding_section(run: Run) -> Section | None:
    """Map and neighbours of a run's test features; of folds, the map of the first, since each has a network of its own.

    None where there are no predictions to colour by.
    """
    if run.predictions is None:
        return None
    runs = [one for one in run.folds or [run] if one.features is not None and one.predictions is not None]
    if not runs:
        return Section("Embedding", f"No features are saved with this evaluation ({RUN_FILES['features']} is missing).")
    rows: list[dict[str, Any]] = []
    section = Section("Embedding")
    for one in runs:
        features, table = _matched(one)
        if len(table) < 3:
            continue
        picked = subsample(len(table))
        features, table = features[picked], table.iloc[picked]
        subjects = list(table["subject"]) if "subject" in table and any(table["subject"]) else None
        labels = list(table["label"]) if "label" in table else None
        found = neighbour_table(features, labels, subjects)
        rows += [{"": f"fold {one.name}", **row} for row in found] if run.folds else found
        if section.figures:
            continue
        dimensions = [str(c).removeprefix("target_") for c in table.columns if str(c).startswith("target_")]
        by: dict[str, Sequence[str] | NDArray[np.float64]] = {"by label": labels} if labels else {}
        by |= {f"by {name}": table[f"target_{name}"].to_numpy(float) for name in dimensions[:2]}
        by |= {"by subject": subjects} if subjects else {}
        if not by:
            continue
        places, how = project(features)
        notes = [how]
        if len(picked) == MAX_CLIPS:
            notes.append(f"{MAX_CLIPS:,} videos, drawn with a fixed seed.")
        if run.folds:
            notes.append(f"Of fold {one.name}: every fold has a network, and so a space, of its own.")
        alt = f"Map of the features of {len(table)} test videos, coloured {' and '.join(by)}"
        section.figures = {"Features of the test videos": Picture(embedding_map(places, by), alt, " ".join(notes))}
    section.tables = {"Does a video's nearest neighbour share it? (leave-one-out)": rows}
    section.text = (
        "Where features hold who is seen, the nearest neighbour shares the subject far above chance. With the same "
        "subject left out, the last row says what they hold of the label without the help, or hindrance, of the face."
        if any("subject" in row["the nearest neighbour shares"] for row in rows)
        else "The subjects are not known, so whether features hold identity cannot be told."
    )
    return section


def _matched(run: Run) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Features and rows of the predictions that belong together, in the predictions' order."""
    assert run.features is not None and run.predictions is not None
    paths, features = run.features
    row_of = {path: row for row, path in enumerate(paths)}
    table = run.predictions[run.predictions["path"].isin(row_of.keys())]
    return features[[row_of[path] for path in table["path"]]], table
