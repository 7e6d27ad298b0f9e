"""Figures and a table of what `benchmarks/learning.py` found: length, spectra, and what the encoders attend to.

Reads the finished runs of OUT and writes into PICTURES (default: OUT/pictures): `learning_length.png`, UAR by steps of
pre-training for each target; `learning_spectrum.png`, the variance of the mean of the last stage by direction, of the first seed.
Prints the attention of each stage as Markdown:

- spread: entropy of the attention of a query, 1 where it is uniform over all keys;
- between clips: half the absolute difference between the attention in a clip and its mean over clips, 0 where every clip is
  read alike, 1 where no two clips share a key. A network that attends alike in every clip looks at places, not at faces.

    python benchmarks/learning_figures.py --out runs/learning --pictures docs/pictures
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from learning import SMALL, VARIANTS, VIEWS, Array, finished, slug, views, world
from matplotlib.figure import Figure
from torch import Tensor

from svfap.data.augment import normalize
from svfap.files import make_folder
from svfap.model import layers
from svfap.model.encoder import TPSBT
from svfap.model.mae import MaskedAutoencoder
from svfap.view.figures.base import MUTED, PALETTE, legend_below, new_figure, save_figure, styled
from svfap.view.tables import to_markdown

TARGETS = ("difference", "pixels")
LENGTHS = {400: ", 1/4 of the steps", 1600: "", 6400: ", 4 × steps", 25600: ", 16 × steps"}
READ = {"linear, last": "mean of the last stage", "linear, tokens": "all tokens, each at its place"}
SHOWN = ("untrained", "pixels", "pixels, 16 × steps", "difference", "difference, 4 × steps")
NEEDED = ("untrained", *(target + more for target in TARGETS for more in LENGTHS.values()))
NUM_CLIPS = 210


def scores(out: Path, name: str, column: str) -> list[float]:
    """A score of a variant, for each seed that is done."""
    return [each["scores"][column] for each in finished(out, [name])]


@styled
def length_figure(out: Path) -> Figure:
    """UAR by steps of pre-training: a panel for each reader, a line for each target, a point for each seed."""
    figure, panels = new_figure(9.6, 4.0, 1, len(READ))
    for panel, (column, title) in zip(panels, READ.items(), strict=True):
        for number, target in enumerate(TARGETS):
            found = {steps: scores(out, target + more, column) for steps, more in LENGTHS.items()}
            found = {steps: values for steps, values in found.items() if values}
            panel.plot(
                list(found), [np.mean(each) for each in found.values()], marker="o", color=PALETTE[number], label=target
            )
            for steps, values in found.items():
                panel.scatter([steps] * len(values), values, s=14, color=PALETTE[number], alpha=0.5, linewidths=0)
        for label, name, row, line in (
            ("untrained", "untrained", column, (0, (4, 3))),
            ("12 × 12 grey pixels, linear", "untrained", "linear, pixels", (0, (1, 2))),
        ):
            if values := scores(out, name, row):
                panel.axhline(float(np.mean(values)), color=MUTED, linewidth=1, linestyle=line, label=label, zorder=0)
        panel.set(xscale="log", xlabel="steps of pre-training, 32 clips each", ylabel="UAR, %")
        panel.set_xticks(list(LENGTHS), [f"{steps:,}" for steps in LENGTHS], minor=False)
        panel.minorticks_off()
        panel.set_title(title, loc="left")
    legend_below(figure, 5)
    return figure


@styled
def spectrum_figure(spectra: dict[str, Array]) -> Figure:
    """The part of the variance of the pooled features in each direction, sorted."""
    figure, (panel,) = new_figure(6.4, 4.0)
    for number, (name, shares) in enumerate(spectra.items()):
        panel.plot(np.arange(1, len(shares) + 1), shares, color=PALETTE[number], label=name)
    panel.set(yscale="log", xlabel="direction, by variance", ylabel="part of the variance")
    panel.set_ylim(top=1)
    panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    legend_below(figure, 3)
    return figure


def spectrum_of(encoder: TPSBT, clips: Tensor) -> Array:
    """Parts of the variance of the mean of the last stage over clips, largest first."""
    with torch.inference_mode():
        pooled = torch.cat([encoder.stage_outputs(each)[-1].mean(dim=(1, 2)) for each in clips.split(64)]).double()
    values = torch.linalg.svdvals(pooled - pooled.mean(dim=0)).square()
    return (values / values.sum()).numpy()


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Within it, every attention of a model adds its weights, (clips, heads, queries, keys), to the list."""
    seen: list[Tensor] = []
    attend = layers.attend

    def recording(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key))
        seen.append((q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1))
        return attend(query, key, value, num_heads)

    with patch.object(layers, "attend", recording):
        yield seen


def attention_of(encoder: TPSBT, clips: Tensor) -> dict[str, float]:
    """Spread, and difference between clips, of the attention in each stage: the means over its layers, heads and queries."""
    spread: dict[str, float] = {}
    between: dict[str, float] = {}

    def look(number: int) -> Any:
        def after(*_: Any) -> None:
            name = f"stage {number}"
            entropy = [
                float(-(each * each.clamp(min=1e-12).log()).sum(dim=-1).mean() / math.log(each.shape[-1])) for each in seen
            ]  # fmt: skip
            apart = [float((each - each.mean(dim=0)).abs().sum(dim=-1).mean() / 2) for each in seen]
            spread[f"{name}: spread"], between[f"{name}: between clips"] = np.mean(entropy), np.mean(apart)
            seen.clear()

        return after

    hooks = [stage.register_forward_hook(look(number)) for number, stage in enumerate(encoder.stages, 1)]
    with recorded() as seen, torch.inference_mode():
        encoder.stage_outputs(clips)
    for hook in hooks:
        hook.remove()
    return {name: float(value) for name, value in (spread | between).items()}


def test_clips(name: str) -> Tensor:
    """Clips of test people, one of each of `NUM_CLIPS` videos, of the world of a variant: (N, 3, 8, 48, 48)."""
    part = world(SMALL["img_size"], tuple(sorted(VARIANTS[name].world.items())))["test"]
    return torch.from_numpy(views(part)[:: len(VIEWS)][:NUM_CLIPS])


def looked_at(out: Path, names: Sequence[str]) -> tuple[pd.DataFrame, dict[str, Array]]:
    """The attention of every variant that is done, with its first seed, and its spectrum."""
    rows, spectra = [], {}
    for name in names:
        if not any(done["seed"] == 0 for done in finished(out, [name])):
            continue
        model = MaskedAutoencoder.from_pretrained(out / f"{slug(name)}-0").eval()
        clips = normalize(test_clips(name), model.config.pixel_mean, model.config.pixel_std)
        spectra[name] = spectrum_of(model.encoder, clips)
        rows.append({"variant": name, **{k: f"{v:.2f}" for k, v in attention_of(model.encoder, clips).items()}})
    return pd.DataFrame(rows), spectra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="of benchmarks/learning.py")
    parser.add_argument(
        "--pictures", type=Path, help="folder of the figures, which are replaced; default: OUT/pictures"
    )
    args = parser.parse_args()
    if not any(finished(args.out, list(NEEDED))):
        sys.exit(f"{args.out}: no finished runs in it that the figures show; benchmarks/learning.py makes them")
    torch.set_num_threads(1)
    pictures = args.pictures or args.out / "pictures"
    make_folder(pictures)
    save_figure(length_figure(args.out), pictures / "learning_length.png")
    table, spectra = looked_at(args.out, SHOWN)
    if spectra:
        save_figure(spectrum_figure(spectra), pictures / "learning_spectrum.png")
        print(to_markdown(table))


if __name__ == "__main__":
    main()
