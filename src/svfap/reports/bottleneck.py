"""The spatial maps of the bottleneck tokens (Eq. 5) over the frames of a clip."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from svfap.data.augment import normalize
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.encoder import TPSBT, SpatialBottleneck
from svfap.reports.hard_examples import RunVideos, rank_by_difficulty
from svfap.reports.runs import Run
from svfap.shipped import local_model
from svfap.view.figures.base import INK, MUTED, hide_frame, new_figure, styled
from svfap.view.page import Picture, Section
from svfap.weights.folder import load_model

MAX_TOKENS, MAX_STEPS = 6, 4
COLOURS = "inferno"  # lightness rises evenly, so it can be read in grey as well


@torch.inference_mode()
def spatial_maps(model: Model, clips: NDArray[np.uint8]) -> dict[int, NDArray[np.float32]]:
    """The maps in one forward pass of clips (B, T, H, W, 3) uint8.

    Returns stage (from 1) -> weights (B, T_i, G, S) float32 of G tokens over S positions at T_i time steps, summing to one over
    the positions; empty for a model without bottleneck tokens.
    """
    maps: dict[int, NDArray[np.float32]] = {}
    encoder, config = model.encoder, model.config
    assert isinstance(encoder, TPSBT)
    with ExitStack() as hooks:
        for number, stage in enumerate(encoder.stages, 1):

            def keep(layer: SpatialBottleneck, inputs: tuple[Tensor, ...], number: int = number) -> None:
                maps[number] = layer.maps(inputs[0]).float().cpu().numpy()

            if isinstance(stage.spatial_bottleneck, SpatialBottleneck):
                hooks.enter_context(stage.spatial_bottleneck.register_forward_pre_hook(keep))
        encoder(normalize(torch.from_numpy(clips), config.pixel_mean, config.pixel_std))
    return maps


def map_table(maps: dict[int, NDArray[np.float32]]) -> list[dict[str, Any]]:
    """One row per stage: the effective number of positions of a token (the exponential of the entropy of its map), and the
    mean cosine similarity of the maps of a time step (1: all maps are equal)."""
    rows = []
    for number, weights in maps.items():
        steps, tokens, positions = weights.shape[1:]
        entropy = -(weights * np.log(np.maximum(weights, 1e-12))).sum(axis=-1)
        effective = np.exp(entropy).mean(axis=(0, 1))
        unit = weights / np.linalg.norm(weights, axis=-1, keepdims=True)
        pairs = (unit @ unit.swapaxes(-1, -2))[..., *np.triu_indices(tokens, 1)]
        row = {"stage": number, "tokens × time steps": f"{tokens} × {steps}", "positions": positions}
        row["effective positions of a token: least"] = float(effective.min())
        row |= {"mean": float(effective.mean()), "most": float(effective.max())}
        rows.append({**row, "similarity of tokens": float(pairs.mean()) if tokens > 1 else None})
    return rows


@styled
def map_figure(clip: NDArray[np.uint8], maps: NDArray[np.float32]) -> Figure:
    """Maps of one stage (T_i, G, S) over a clip (T, H, W, 3): a row per time step, a column per token after the frame.

    The colour is the weight divided by the uniform weight 1/S, on one scale for all maps. A time step shows its middle frame.
    At most `MAX_TOKENS` tokens are shown, those with the most concentrated maps, and `MAX_STEPS` evenly spaced time steps.
    """
    steps, _, positions = maps.shape
    grid = round(positions**0.5)
    shown_steps = np.unique(np.linspace(0, steps - 1, min(steps, MAX_STEPS)).round().astype(int))
    concentration = (maps**2).sum(axis=-1).mean(axis=0)
    shown_tokens = np.sort(np.argsort(-concentration, kind="stable")[:MAX_TOKENS])
    relative = maps * positions
    top = max(2.0, float(relative[shown_steps][:, shown_tokens].max()))
    columns = 1 + len(shown_tokens)
    height = 1.06 * len(shown_steps) + 0.3
    figure, panels = new_figure(1.15 * columns + 0.9, height, len(shown_steps), columns, gap=0.02)
    for row, step in enumerate(shown_steps):
        frame = clip[int((step + 0.5) * len(clip) / steps)]
        pictures = [frame, *(overlay(frame, relative[step, t].reshape(grid, grid) / top) for t in shown_tokens)]
        for column, (axes, picture) in enumerate(zip(panels[row * columns :], pictures, strict=False)):
            axes.imshow(picture, interpolation="none")
            hide_frame(axes)
            if row == 0:
                name = f"token {shown_tokens[column - 1] + 1}" if column else "frame"
                axes.set_title(name, fontsize=8.5, color=INK, pad=3)
        panels[row * columns].set_ylabel(f"step {step + 1}", fontsize=8.5, color=MUTED)
    bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=panels, shrink=0.8, aspect=25, pad=0.01)
    bar.set_label("weight × positions", fontsize=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)
    return figure


def overlay(frame: NDArray[np.uint8], strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) uint8 in grey under a heat map (g, g) in [0, 1], interpolated to the size of the frame."""
    height, width = frame.shape[:2]
    heat = np.clip(cv2.resize(strength.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    grey = np.repeat(frame.mean(axis=-1, keepdims=True), 3, axis=-1)
    colour = 255 * matplotlib.colormaps[COLOURS](heat)[..., :3]
    opacity = 0.15 + 0.6 * heat[..., None]
    return np.asarray((1 - opacity) * grey + opacity * colour).round().astype(np.uint8)


def bottleneck_section(run: Run) -> Section | None:
    """Maps over the easiest and the hardest test video of a run; of folds, of the first.

    None without predictions, or for a model without bottleneck tokens. Only local files are read.
    """
    one = next((part for part in run.parts if len(part.predictions)), None)
    if one is None:
        return None
    try:
        model = load_model(_local_model(one))
        config = model.config
        if not config.num_bottleneck_tokens or not config.spatial_bottleneck:
            return None
        videos, ranked = RunVideos(one), rank_by_difficulty(one.predictions)
        shown = ranked.iloc[[-1, 0]] if len(ranked) > 1 else ranked
        shape = (config.num_frames, config.sampling_stride, config.img_size, config.frame_fit)
        clips = np.stack([videos.clip(str(path), *shape) for path in shown["path"]])
    except UserError as error:
        return Section("Bottleneck tokens", f"No maps of the bottleneck tokens: {error}.")
    maps = spatial_maps(model, clips)
    figures = {}
    for k, (row, which) in enumerate(zip(shown.to_dict("records"), ("easiest", "hardest"), strict=False)):
        note = f"{row['path']}: {row['description']}."
        for number, weights in maps.items():
            alt = f"Maps of the bottleneck tokens of stage {number} over {row['path']}, one row per time step"
            picture = Picture(map_figure(clips[k], weights[k]), alt, note, frames=True)
            figures[f"Stage {number}, {which} video"] = picture
    text = (
        "Each token is a weighted mean over the positions of a time step (Eq. 5). The maps show the weights times the number "
        "of positions, so 1 is the uniform weight."
    )
    if run.folds:
        text += f" Of fold {one.name}."
    tables = {"Concentration and similarity of the maps": map_table(maps)}
    return Section("Bottleneck tokens", text, tables=tables, figures=figures)


def _local_model(run: Run) -> Path:
    """The folder of the model that was evaluated, else of the run's model; never a Hub name, so nothing is downloaded."""
    names = [str(name) for name in (run.metrics.get("model"), run.folder) if name]
    folders = [local_model(name) or Path(name) for name in names]
    for folder in folders:
        if any((folder / part / "config.json").is_file() for part in ("", "best", "last")):
            return folder
    raise UserError(f"its model ({folders[0]}) cannot be found")
