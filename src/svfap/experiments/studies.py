"""The paper's experiments as descriptions: which rows a table has, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svfap.model.config import ModelConfig
from svfap.model.variants import VARIANTS

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a table: what it changes in the settings of pre-training, of fine-tuning, and of the model in both.

    pretrain: None trains from scratch. `model` within `pretrain` or `finetune` changes the model in that phase alone.
    """

    name: str
    pretrain: Settings | None = field(default_factory=dict)
    finetune: Settings = field(default_factory=dict)
    model: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """What rows change: the settings of both phases, the fine-tuning model's config; weights of VideoMAE, if there are."""

    pretrain: Settings
    finetune: Settings
    config: ModelConfig
    videomae: str | None = None


@dataclass(frozen=True)
class Study:
    """An experiment: its title, where the paper has it, the meaning of its rows, and the rows.

    swept: the rows are points along an axis, so the figure is a line.
    """

    title: str
    source: str
    axis: str
    rows: Callable[[Base], list[Row]]
    swept: bool = False


def _of_variants(experiment: str) -> Callable[[Base], list[Row]]:
    def rows(base: Base) -> list[Row]:
        return [Row(name, model=overrides(base.config)) for name, overrides in VARIANTS[experiment].items()]

    return rows


def _scratch(base: Base) -> list[Row]:
    return [Row("from scratch", pretrain=None), Row("pre-trained")]


def _schedule(base: Base) -> list[Row]:
    """Each length is a training of its own, with its own cosine to the end."""
    epochs = sorted({max(1, round(base.pretrain["epochs"] * part)) for part in (0.1, 0.25, 0.5, 1.0)})
    return [
        Row(f"{n} epochs", pretrain={"epochs": n, "warmup_epochs": min(base.pretrain["warmup_epochs"], n / 2)})
        for n in epochs
    ]


def _scale(base: Base) -> list[Row]:
    return [Row(f"{percent}%", pretrain={"fraction": percent / 100}) for percent in (1, 5, 10, 20, 100)]


def _masking(base: Base) -> list[Row]:
    return [
        Row(name, pretrain={"mask_ratio": overrides(base.config)["mask_ratio"]})
        for name, overrides in VARIANTS["masking"].items()
    ]


def _fusion(base: Base) -> list[Row]:
    words = {"no": False, "yes": True}
    return [
        Row(f"{before} / {after}", {"model": {"fuse_stages": fused}}, {"model": {"fuse_stages": words[after]}})
        for before, fused in words.items()
        for after in words
    ]


def _few_shot(base: Base) -> list[Row]:
    starts: dict[str, Settings | None] = {"": {}, ", from scratch": None}
    return [
        Row(f"{percent}%{how}", start, {"fraction": percent / 100})
        for how, start in starts.items()
        for percent in (10, 25, 50, 100)
    ]


def _videomae(base: Base) -> list[Row]:
    """VideoMAE's own checkpoint where it is given; else its encoder pre-trained here: half as wide again as ours (768
    against 512, in heads of the same width) and one stage deep.
    """
    ours = Row("SVFAP-B" if base.config.preset == "svfap_base" else "SVFAP")
    if base.videomae is not None:
        start = {"preset": "videomae_base", "init": base.videomae}
        return [Row("VideoMAE (Kinetics-400)", pretrain=None, finetune=start), ours]
    heads = round(base.config.num_heads * 1.5)
    width = base.config.embed_dim * 3 // 2 // heads * heads
    plain = {"embed_dim": width, "num_heads": heads, "stage_depths": (base.config.stage_depths[0],)}
    return [Row("VideoMAE's encoder", model=plain), ours]


STUDIES: dict[str, Study] = {
    "scratch": Study("Pre-training against training from scratch", "Fig. 4", "training", _scratch),
    "schedule": Study("Length of pre-training", "Fig. 5", "pre-training", _schedule, swept=True),
    "scale": Study("Amount of pre-training data, at equal cost", "Table 1", "part of the data", _scale, swept=True),
    "masking": Study("Masking ratio", "Table 2", "masking ratio", _masking, swept=True),
    "variants": Study("Temporal pyramid and spatial bottleneck", "Table 3", "encoder", _of_variants("variants")),
    "fusion": Study("Fusing the stages", "Table 4", "in pre-training / in fine-tuning", _fusion),
    "bottleneck": Study(
        "Bottleneck tokens of a time step", "Table 5", "tokens", _of_variants("bottleneck"), swept=True
    ),
    "downsampling": Study("Temporal down-sampling", "Table 6", "down-sampling", _of_variants("downsampling")),
    "videomae": Study("Against VideoMAE's encoder", "Table 7", "encoder", _videomae),
    "few_shot": Study("Few labels", "Fig. 7", "part of the labels", _few_shot),
}
