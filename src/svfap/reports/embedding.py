"""The features of the test videos: a map, and how often nearest neighbours share the label or the subject."""

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

from svfap.evaluation.predictions import labelled_outputs
from svfap.reports.runs import RUN_FILES, Run
from svfap.view.figures.base import PALETTE, hide_frame, legend_name, new_figure, styled
from svfap.view.page import Picture, Section

MAX_CLIPS = 5000  # t-SNE and all pairs of these take about a minute on one core
MIN_FOR_TSNE = 30
MARKERS = "os^DvPX*<>ph"


def subsample(num_clips: int) -> NDArray[np.int64]:
    """Indices of all clips, or of `MAX_CLIPS` drawn with a fixed seed; ascending int64."""
    if num_clips <= MAX_CLIPS:
        return np.arange(num_clips)
    return np.sort(np.random.default_rng(0).choice(num_clips, MAX_CLIPS, replace=False))


def project(features: ArrayLike) -> tuple[NDArray[np.float64], str]:
    """Features (N, D) -> positions (N, 2) and a sentence on the method: t-SNE of the first 50 principal components, or PCA
    for fewer than `MIN_FOR_TSNE` clips."""
    values = np.asarray(features, np.float64)
    if len(values) < MIN_FOR_TSNE:
        components = PCA(min(2, *values.shape)).fit_transform(values)
        flat = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
        return flat, "PCA, as there are too few clips for t-SNE."
    reduced = PCA(min(50, *values.shape), random_state=0).fit_transform(values)
    perplexity = min(30, len(values) // 5)
    positions = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return positions, (
        f"t-SNE (perplexity {perplexity}): points that are close have similar features; distances between clusters and the "
        "axes have no meaning."
    )


def neighbour_table(
    features: ArrayLike, labels: Sequence[str] | None, subjects: Sequence[str] | None
) -> list[dict[str, Any]]:
    """How often the nearest neighbour of a clip (leave-one-out 1-NN, cosine distance after centring) shares label or subject.

    A row each for the label, the subject, and the label where only clips of other subjects can be neighbours, so that identity
    plays no part. Chance is the fraction over all possible pairs, which uninformative features reach. Clips of an unknown
    subject ('') are left out of rows about subjects.

    features: (N, D); labels, subjects: N names or None. Rows without any possible pair are left out.
    """
    values = np.asarray(features, np.float64)
    distances = pairwise_distances(values - values.mean(axis=0), metric="cosine")
    everything = np.ones((len(values), len(values)), dtype=bool)
    compared = []  # what is shared, which pairs share it, which pairs are possible
    if labels is not None:
        compared.append(("the label", _same(labels), everything))
    if subjects is not None:
        known = np.array([bool(subject) for subject in subjects])
        both, same_subject = known[:, None] & known, _same(subjects)
        compared.append(("the subject", same_subject, both))
        if labels is not None:
            compared.append(("the label, among other subjects", _same(labels), both & ~same_subject))
    rows = []
    for name, shared, possible in compared:
        possible = possible & ~np.eye(len(values), dtype=bool)
        clips = np.flatnonzero(possible.any(axis=1))
        if not len(clips):
            continue
        nearest = np.where(possible, distances, np.inf).argmin(axis=1)
        hits = shared[clips, nearest[clips]].mean()
        chance = ((shared & possible).sum(axis=1)[clips] / possible.sum(axis=1)[clips]).mean()
        percent = {"1-NN, %": f"{100 * hits:.1f}", "chance, %": f"{100 * chance:.1f}"}
        rows.append({"the nearest neighbour shares": name, **percent, "clips": len(clips)})
    return rows


def _same(names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether two of N names are equal, (N, N)."""
    codes = pd.factorize(np.array(names, dtype=object))[0]
    return np.asarray(codes[:, None] == codes)


@styled
def embedding_map(positions: NDArray[np.float64], by: dict[str, Sequence[str] | NDArray[np.float64]]) -> Figure:
    """Scatter plots of positions (N, 2), one per entry of `by`: title -> N names or N numbers that colour the points."""
    figure, panels = new_figure(4.9 * len(by), 4.9, 1, len(by))
    for axes, (title, values) in zip(panels, by.items(), strict=True):
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            points = axes.scatter(
                positions[:, 0], positions[:, 1], s=20, c=values, cmap="cividis", linewidths=0, alpha=0.9
            )
            bar = figure.colorbar(points, ax=axes, shrink=0.7, location="bottom", pad=0.02)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        else:
            _scatter_by_name(axes, positions, [str(value) for value in values])
        hide_frame(axes)
        axes.set_title(title, loc="left")
    return figure


def _scatter_by_name(axes: Axes, positions: NDArray[np.float64], names: Sequence[str]) -> None:
    """A colour and a marker for each name; if there are more names than colours, the rarest are grey."""
    common = [name for name, _ in Counter(name for name in names if name).most_common(len(PALETTE))]
    listed = sorted(common) if len(set(names)) > len(PALETTE) else list(dict.fromkeys(n for n in names if n))
    array = np.array(names, dtype=object)
    rest = ~np.isin(array, listed)
    if rest.any():
        others = f"{len(set(array[rest]))} others"
        axes.scatter(positions[rest, 0], positions[rest, 1], s=14, color="#C9D1D9", linewidths=0, label=others)
    for k, name in enumerate(listed):
        x, y = positions[array == name].T
        style: dict[str, Any] = {"color": PALETTE[k], "marker": MARKERS[k % len(MARKERS)], "alpha": 0.85}
        axes.scatter(x, y, s=22, linewidths=0, label=legend_name(name), **style)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8)


def embedding_section(run: Run) -> Section | None:
    """Map and nearest neighbours of the test features; of folds, the map of the first, since every fold has its own network.

    None without predictions.
    """
    if run.predictions.empty:
        return None
    rows: list[dict[str, Any]] = []
    section = Section("Embedding", tables={"What nearest neighbours share (leave-one-out)": rows})
    parts = [part for part in run.parts if part.features is not None and len(part.predictions)]
    if not parts:
        section.text = f"No features are saved with this evaluation ({RUN_FILES['features']} is missing)."
        return section
    for part in parts:
        features, table = _matched(part)
        if len(table) < 3:
            continue
        subjects = list(table["subject"]) if "subject" in table and any(table["subject"]) else None
        found, labels = labelled_outputs(table, part.folder), None
        by: dict[str, Sequence[str] | NDArray[np.float64]] = {}
        if found is not None and found.task == "classification":
            by["by label"] = labels = [found.names[k] for k in found.targets]
        elif found is not None:
            by |= {f"by {name}": found.targets[:, k] for k, name in enumerate(found.names[:2])}
        if subjects:
            by["by subject"] = subjects
        shared = neighbour_table(features, labels, subjects)
        rows += [{"": f"fold {part.name}", **row} for row in shared] if run.folds else shared
        if by and not section.figures:
            positions, note = project(features)
            if len(table) == MAX_CLIPS:
                note += f" {MAX_CLIPS:,} videos, drawn with a fixed seed."
            if run.folds:
                note += f" Of fold {part.name}; every fold has its own network and feature space."
            alt = f"Map of the features of {len(table)} test videos, coloured {' and '.join(by)}"
            section.figures = {"Features of the test videos": Picture(embedding_map(positions, by), alt, note)}
    section.text = (
        "If features encode identity, the nearest neighbour shares the subject far more often than by chance. The last row "
        "excludes clips of the same subject, so it measures what the features encode of the label apart from identity."
        if any("subject" in row["the nearest neighbour shares"] for row in rows)
        else "The subjects are not known, so it cannot be measured whether the features encode identity."
    )
    return section


def _matched(run: Run) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Features (N, D) and the rows of the predictions they belong to, at most `MAX_CLIPS`, in the order of the predictions."""
    assert run.features is not None
    paths, features = run.features
    row_of = {path: row for row, path in enumerate(paths)}
    table = run.predictions[run.predictions["path"].isin(list(row_of))]
    table = table.iloc[subsample(len(table))]
    return features[[row_of[path] for path in table["path"]]], table
