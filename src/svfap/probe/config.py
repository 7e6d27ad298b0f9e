"""Settings of `svfap probe`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svfap.data.prepared import require_manifest
from svfap.errors import UserError
from svfap.settings import ClockSettings, DeviceSettings, SourceSettings, require, require_numbers, several

KINDS = ("linear", "attentive", "knn")
SETS = ("last", "fused", "tokens", "stages")
PROBE_FOLDER, PROBE_FILE = "probe", "probe.json"
# Of the attentive reader: learning rates and weight decays that are tried, and the least length of its training.
RATES, DECAYS = (1e-3, 3e-3, 1e-2), (0.1, 1.0)
EPOCHS, MIN_STEPS = 20, 2500


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ClockSettings, DeviceSettings, SourceSettings):
    """Which data a frozen encoder is probed on, and by which readers.

    Raises `UserError` for values that are out of range or do not go together.
    """

    dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack`, or URL of packed data: the train part of its fold fits the readers, with its val
    part, and its test part is scored."""
    fold: str | None = None
    """Fold of the dataset; default: its only one."""
    manifest: Path | None = None
    """CSV of videos with labels or values, in place of `dataset`, also in a folder of `svfap pack` or at its URL. With
    `test_manifest` or `test_split` it fits the readers; alone it is scored by cross-validation over people: needs a column
    `subject`."""
    test_manifest: Path | None = None
    """CSV of the videos that are scored; as for `manifest`, also one in a folder of `svfap pack`."""
    test_split: str | None = None
    """Value of the manifest's `split` column of the videos that are scored; `split` is that of the videos that fit."""
    by_video: bool = False
    """For a manifest alone without subjects: divide by video. The same person may then be in both parts, and scores too high."""
    num_folds: int = 5
    """Folds of people: of the cross-validation of a manifest alone, and of the choice of each reader's settings."""

    task: Literal["classification", "regression"] | None = None
    """Default: the dataset's, else classification, or regression if `dimensions` or `frame_level` are given."""
    dimensions: list[str] | None = None
    """Values to read; default: all of the dataset, or all columns of numbers."""
    frame_level: bool = False
    """Read the values of every frame, from the manifest's `frame_values` files, at each time step of the encoder. Default:
    as the dataset says."""
    invalid_marks: list[float] = field(default_factory=list)
    """Numbers that mean "not annotated" in values of frames, as [-5] in Aff-Wild2."""
    label_range: tuple[float, float] | None = None
    """Lowest and highest value of frames; frames with a value outside are left out. Default: the dataset's, else none."""

    kind: str | list[str] = field(default_factory=lambda: ["linear", "knn"])
    """Readers: linear (ridge regression), knn (nearest neighbours by cosine), attentive (one cross-attention block with a
    learned query over all tokens, as in V-JEPA). Several as [linear, attentive, knn]."""
    features: str | list[str] = field(default_factory=lambda: ["last", "fused", "tokens"])
    """Features that linear and knn read: last (mean of the last stage, which fine-tuning reads), fused (mean of the fused
    stages), tokens (all tokens of the fused stages; linear only), stages (mean of each stage)."""
    num_segments: int = 2
    """Temporal views of each video; the readers' outputs are averaged over the views, as `svfap evaluate` does."""
    num_crops: int = 2
    """Spatial views of each segment; see `svfap evaluate --help`."""

    neighbours: int | None = None
    """Number of neighbours of knn; default: chosen from 5, 10, 20 and 50 on held-out people of the training part."""
    attentive_epochs: int | None = None
    """Epochs that each attentive reader is trained for; default: 20, or as many as give 2,500 steps of 64 samples."""
    attentive_rates: list[float] = field(default_factory=lambda: list(RATES))
    """Learning rates that are tried; the best on held-out people of the training part is used."""
    attentive_decays: list[float] = field(default_factory=lambda: list(DECAYS))
    """Weight decays that are tried with each learning rate."""
    num_seeds: int = 1
    """Attentive readers trained with the chosen settings; a score is the mean of their scores."""

    num_resamples: int = 2000
    """Samples of people drawn for the 95% confidence intervals."""
    seed: int = 0
    """Of the folds, the attentive readers and the confidence intervals. The untrained encoder has always the seed 0."""
    num_workers: int = 0
    """Decoding processes; 0: decode in the process itself."""
    out: Path | None = None
    """Folder for table, figure and features; default: RUN/probe."""

    def __post_init__(self) -> None:
        ClockSettings.__post_init__(self)
        DeviceSettings.__post_init__(self)
        object.__setattr__(self, "kind", several(self, "kind", KINDS))
        object.__setattr__(self, "features", several(self, "features", SETS))
        if "knn" in self.kind and set(self.features) == {"tokens"}:
            raise UserError("features=tokens: knn reads last, fused or stages; add one of them")
        require(self, 1, "num_segments", "num_crops", "neighbours", "attentive_epochs", "num_seeds")
        require(self, 2, "num_folds")
        require(self, 100, "num_resamples")
        require(self, 0, "seed", "num_workers")
        for name in ("attentive_rates", "attentive_decays"):
            values = getattr(self, name)
            if not values or not all(0 <= value < math.inf for value in values):
                raise UserError(f"{name}={values}: must be one or several finite numbers, none below 0")
        if (self.dataset is None) == (self.manifest is None):
            raise UserError(
                "give either `dataset` (a folder of `svfap prepare`) or `manifest` (a CSV with labels or values)"
            )
        if self.dataset is None and self.fold is not None:
            raise UserError(f"fold={self.fold}: only a dataset has folds; give `dataset` in place of `manifest`")
        if self.fold == "all":
            raise UserError("fold=all: one fold is probed at a time; name it")
        for name in ("test_manifest", "test_split", "split", "by_video"):
            if self.dataset is not None and getattr(self, name) not in (None, False):
                raise UserError(f"{name}={getattr(self, name)}: goes with `manifest`; the parts of a dataset are known")
        if self.by_video and not self.cross_validates:
            raise UserError("by_video: goes with a manifest alone, which is divided here; here the parts are given")
        if self.dimensions == []:
            raise UserError("dimensions: is an empty list; name the values to read, or leave it out")
        require_numbers(self, "invalid_marks")
        if self.test_manifest is not None and self.test_split is not None:
            raise UserError("give either `test_manifest` or `test_split`, not both")
        if self.test_split is not None and self.split is None:
            raise UserError(f"test_split={self.test_split}: give `split` too, the part that fits the readers")
        if self.test_split is not None and self.test_split == self.split:
            raise UserError(f"test_split={self.test_split}: is the part that fits the readers; give another")
        for name in ("manifest", "test_manifest"):
            require_manifest(name, getattr(self, name))
        if self.task == "classification" and (self.dimensions or self.frame_level):
            given = "dimensions" if self.dimensions else "frame_level"
            raise UserError(f"{given}: is for regression; classes are read for each clip")
        if self.label_range is not None and not self.label_range[0] < self.label_range[1]:
            raise UserError(f"label_range={self.label_range}: must be two numbers, the smaller one first")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The readers, in the order of tables."""
        return tuple(name for name in KINDS if name in self.kind)

    @property
    def cross_validates(self) -> bool:
        """Whether there is no test part, so that every video is scored once, by readers fitted on other people."""
        return self.dataset is None and self.test_manifest is None and self.test_split is None

    def out_folder(self, run: str | Path | None) -> Path:
        """Where the results go: `out`, or `probe` in the folder of the run. Raises `UserError` where it has none."""
        if self.out is not None:
            return self.out
        if run is None or not Path(run).is_dir():
            raise UserError(f"out: {run or 'a loaded model'} is no folder that results could be put into; give `out`")
        return Path(run) / PROBE_FOLDER
