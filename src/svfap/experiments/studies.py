"""The paper's experiments, one function per table or figure: its rows, what each row changes, the paper's numbers.

The numbers are from the paper (arXiv 2401.00416v2); tables show them beside the results of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svfap.errors import UserError
from svfap.model.config import ModelConfig

Settings = Mapping[str, Any]


class Reported(NamedTuple):
    """The paper's numbers for one row: SVFAP-B on fold 1 of DFEW. None: not reported.

    uar, war: percent; int: read off a figure. parameters: millions. finetune, pretrain: multiply-adds for one clip, in
    units of 10⁹.
    """

    uar: float | None = None
    war: float | None = None
    parameters: float | None = None
    finetune: float | None = None
    pretrain: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Metric -> value as a fraction, as `svfap evaluate` writes them."""
        return {name: value / 100 for name, value in (("uar", self.uar), ("war", self.war)) if value is not None}

    @property
    def scores_text(self) -> str:
        """UAR and WAR for a table, which says where they are read off a figure; empty where none is reported."""
        if not self.scores:
            return ""
        return f"about {self.uar} / {self.war}" if isinstance(self.uar, int) else f"{self.uar:.2f} / {self.war:.2f}"

    @property
    def costs(self) -> tuple[float | None, ...]:
        """Parameters and multiply-adds; empty where none is reported."""
        costs = (self.parameters, self.finetune, self.pretrain)
        return costs if any(costs) else ()


@dataclass(frozen=True)
class StudyRow:
    """One row of a table: the settings in which it differs from the baseline.

    pretrain, finetune: fields of `PretrainConfig` and `FinetuneConfig`; pretrain=None trains from scratch. model: fields
    of `ModelConfig` for both phases; `model` within `pretrain` or `finetune` holds those for one phase. reference: the row that
    the others of a study are tested against. variant: name of a change that is no setting, for the folders of its runs; within:
    makes the context in which such a row is pre-trained, in this process.
    """

    name: str
    pretrain: Settings | None = field(default_factory=dict)
    finetune: Settings = field(default_factory=dict)
    model: Settings = field(default_factory=dict)
    paper: Reported = field(default=Reported())
    reference: bool = False
    variant: str = ""
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Baseline:
    """What the rows change: the model of fine-tuning, the settings of pre-training, and VideoMAE's checkpoint, if given."""

    model: ModelConfig
    pretrain: Settings = field(default_factory=dict)
    videomae: str | None = None


@dataclass(frozen=True)
class Study:
    """One table or figure of the paper, `source`.

    axis: heading of the column that names the rows. rows: the rows for a baseline; one of them is the reference, the paper's
    default setting. swept: the rows are points along an axis, joined by a line.
    """

    title: str
    source: str
    axis: str
    rows: Callable[[Baseline], list[StudyRow]]
    swept: bool = False


STUDIES: dict[str, Study] = {}


def _study(title: str, source: str, axis: str, swept: bool = False) -> Callable[..., Callable[..., list[StudyRow]]]:
    """Decorator that makes a function of the baseline a study, under the function's name."""

    def register(rows: Callable[[Baseline], list[StudyRow]]) -> Callable[[Baseline], list[StudyRow]]:
        STUDIES[rows.__name__] = Study(title, source, axis, rows, swept)
        return rows

    return register


@_study("Pre-training against training from scratch", "Fig. 4", "training")
def scratch(baseline: Baseline) -> list[StudyRow]:
    """The paper's scores from scratch are read off the figure."""
    return [
        StudyRow("from scratch", pretrain=None, paper=Reported(21, 30)),
        StudyRow("pre-trained", paper=Reported(62.63, 74.81), reference=True),
    ]


@_study("Length of pre-training", "Fig. 5", "pre-training", swept=True)
def schedule(baseline: Baseline) -> list[StudyRow]:
    """Each length is a separate run, with its own cosine schedule to the end. The paper has a curve, without numbers."""
    epochs = sorted({max(1, round(baseline.pretrain["epochs"] * part)) for part in (0.1, 0.25, 0.5, 1.0)})
    warmup = baseline.pretrain["warmup_epochs"]
    lengths = [(n, {"epochs": n, "warmup_epochs": min(warmup, n / 2)}) for n in epochs]
    return [StudyRow(f"{n} epochs", pretrain=settings, reference=n == epochs[-1]) for n, settings in lengths]


@_study("Amount of pre-training data, at equal cost", "Table 1", "part of the data", swept=True)
def scale(baseline: Baseline) -> list[StudyRow]:
    """An epoch has as many steps as with all videos (see `TrainConfig.fraction`)."""
    return [
        StudyRow("1%", pretrain={"fraction": 0.01}, paper=Reported(57.65, 70.61)),
        StudyRow("5%", pretrain={"fraction": 0.05}, paper=Reported(60.34, 73.00)),
        StudyRow("10%", pretrain={"fraction": 0.1}, paper=Reported(61.09, 73.56)),
        StudyRow("20%", pretrain={"fraction": 0.2}, paper=Reported(61.54, 73.76)),
        StudyRow("100%", pretrain={"fraction": 1.0}, paper=Reported(62.63, 74.81), reference=True),
    ]


@_study("Masking ratio", "Table 2", "masking ratio", swept=True)
def masking(baseline: Baseline) -> list[StudyRow]:
    """Fraction of the spatial positions that pre-training hides."""
    return [
        StudyRow("75%", pretrain={"mask_ratio": 0.75}, paper=Reported(60.89, 73.91, pretrain=18.4)),
        StudyRow("85%", pretrain={"mask_ratio": 0.85}, paper=Reported(61.87, 74.77, pretrain=14.7)),
        StudyRow("90%", pretrain={"mask_ratio": 0.9}, paper=Reported(62.63, 74.81, pretrain=12.9), reference=True),
        StudyRow("95%", pretrain={"mask_ratio": 0.95}, paper=Reported(59.93, 73.17, pretrain=11.2)),
    ]


@_study("Temporal pyramid and spatial bottleneck", "Table 3", "encoder")
def variants(baseline: Baseline) -> list[StudyRow]:
    """The paper gives the costs of these encoders and not their layers, so two details are inferred from the costs.

    Without the bottleneck, a later stage has 16/12 as many blocks (rounded): an ordinary block has 12 D² weights, one with
    cross-attention 16 D². Without the pyramid, a later stage has more time steps and as many fewer bottleneck tokens in
    each (8 become 4 and 2; at least 1). With 8 throughout, "bottleneck only" would cost 51.1 G and 14.5 G multiply-adds
    where the paper reports 49.9 G and 13.5 G.
    """
    first, *later = baseline.model.stage_depths
    kernel = baseline.model.temporal_kernel_size
    tokens = tuple(max(1, n // kernel ** (i + 1)) for i, n in enumerate(baseline.model.num_bottleneck_tokens))
    no_pyramid = {"temporal_pyramid": False}
    no_bottleneck = {"spatial_bottleneck": False, "stage_depths": (first, *(round(n * 16 / 12) for n in later))}
    return [
        StudyRow("neither", model={**no_pyramid, **no_bottleneck}, paper=Reported(61.71, 74.41, 76.4, 76.9, 14.9)),
        StudyRow("pyramid only", model=no_bottleneck, paper=Reported(60.84, 74.28, 77.5, 53.1, 13.1)),
        StudyRow("bottleneck only", model={**no_pyramid, "num_bottleneck_tokens": tokens},
                 paper=Reported(62.66, 75.02, 76.6, 49.9, 13.5)),
        StudyRow("both", paper=Reported(62.63, 74.81, 77.6, 43.6, 12.9), reference=True),
    ]  # fmt: skip


@_study("Fusing the stages", "Table 4", "in pre-training / in fine-tuning")
def fusion(baseline: Baseline) -> list[StudyRow]:
    """The sum of all stages (Eq. 10) or the output of the last stage alone, in each phase."""
    yes, no = {"model": {"fuse_stages": True}}, {"model": {"fuse_stages": False}}
    return [
        StudyRow("no / no", pretrain=no, finetune=no, paper=Reported(61.78, 74.43)),
        StudyRow("no / yes", pretrain=no, finetune=yes, paper=Reported(61.24, 74.17)),
        StudyRow("yes / no", pretrain=yes, finetune=no, paper=Reported(62.63, 74.81), reference=True),
        StudyRow("yes / yes", pretrain=yes, finetune=yes, paper=Reported(62.39, 74.74)),
    ]


@_study("Bottleneck tokens of a time step", "Table 5", "tokens", swept=True)
def bottleneck(baseline: Baseline) -> list[StudyRow]:
    """G, the number of bottleneck tokens in each time step of every later stage."""
    return [
        StudyRow("4", model={"num_bottleneck_tokens": 4}, paper=Reported(61.76, 74.08, None, 43.2, 12.6)),
        StudyRow(
            "8", model={"num_bottleneck_tokens": 8}, paper=Reported(62.63, 74.81, None, 43.6, 12.9), reference=True
        ),
        StudyRow("16", model={"num_bottleneck_tokens": 16}, paper=Reported(62.86, 74.69, None, 44.4, 13.7)),
    ]


@_study("Temporal down-sampling", "Table 6", "down-sampling")
def downsampling(baseline: Baseline) -> list[StudyRow]:
    """How a later stage shortens time (Eq. 4)."""
    return [
        StudyRow("avg", model={"temporal_downsample": "avg"}, paper=Reported(62.04, 74.42, 76.6, 43.3)),
        StudyRow("max", model={"temporal_downsample": "max"}, paper=Reported(62.25, 74.16, 76.6, 43.3)),
        StudyRow(
            "conv", model={"temporal_downsample": "conv"}, paper=Reported(62.63, 74.81, 77.6, 43.6), reference=True
        ),
    ]


@_study("Against VideoMAE's encoder", "Table 7", "encoder")
def videomae(baseline: Baseline) -> list[StudyRow]:
    """VideoMAE's checkpoint if it is given; else an encoder like VideoMAE's, pre-trained here: one stage, 1.5 times the
    baseline's width (768 instead of 512), heads of the same width.
    """
    svfap = StudyRow("SVFAP", reference=True)
    if baseline.model.preset == "svfap_base":
        svfap = StudyRow("SVFAP-B", paper=Reported(62.63, 74.81), reference=True)
    if baseline.videomae is not None:
        start = {"preset": "videomae_base", "init": baseline.videomae}
        paper = Reported(58.32, 70.94)
        return [StudyRow("VideoMAE (Kinetics-400)", pretrain=None, finetune=start, paper=paper), svfap]
    heads = round(baseline.model.num_heads * 1.5)
    width = baseline.model.embed_dim * 3 // 2 // heads * heads
    plain = {"embed_dim": width, "num_heads": heads, "stage_depths": (baseline.model.stage_depths[0],)}
    return [StudyRow("VideoMAE's encoder", model=plain), svfap]


@_study("Few labels", "Fig. 7", "part of the labels")
def few_shot(baseline: Baseline) -> list[StudyRow]:
    """The paper's score with 10% is read off the figure, which has no more numbers."""
    reported = {10: Reported(50, 63), 100: Reported(62.63, 74.81)}
    percents = (10, 25, 50, 100)
    return [
        *(
            StudyRow(f"{p}%", {}, {"fraction": p / 100}, paper=reported.get(p, Reported()), reference=p == 100)
            for p in percents
        ),
        *(StudyRow(f"{p}%, from scratch", None, {"fraction": p / 100}) for p in percents),
    ]


RECONSTRUCTIONS = "reconstructions"  # Fig. 6: no training is compared, so it is not a study
EXPERIMENTS = (*STUDIES, RECONSTRUCTIONS, "all")
EXPERIMENTS_HELP = "; ".join(
    [
        *(f"{name}: {study.title[0].lower()}{study.title[1:]} ({study.source})" for name, study in STUDIES.items()),
        f"{RECONSTRUCTIONS}: of hidden pixels (Fig. 6)",
        "all: each of these",
    ]
)


def chosen_experiments(name: str) -> tuple[str, ...]:
    """The experiments of a name: itself, or each of them for "all". Raises `UserError` for an unknown name."""
    if name not in EXPERIMENTS:
        raise UserError(f"experiment {name!r} is none of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[:-1] if name == "all" else (name,)
