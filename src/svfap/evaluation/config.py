"""Settings of evaluation: `EvaluateConfig` for one manifest, `PoolConfig` for all folds, `CompareConfig`, `CalibrateConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svfap.data.prepared import PreparedDataset, require_dataset, require_manifest
from svfap.errors import UserError
from svfap.metric_table import metric_keys
from svfap.settings import (
    ClockSettings,
    Settings,
    SourceSettings,
    is_exported,
    is_hub_name,
    require,
    require_model,
    require_numbers,
    several,
)
from svfap.shipped import local_model, shipped_folder

FOLDS_FILE = "folds.json"
# Of the folder of a training: its settings, videos and log, its progress in last/, why it ended with an error, the folder of
# its evaluation on its own test part, and that of its calibrated model.
RUN_CONFIG, DATA_FILE, LOG_FILE, STATE_FILE = "config.yaml", "data.json", "log.jsonl", "state.json"
FAILURE_FILE, EVALUATION_FOLDER, CALIBRATED_FOLDER = "failed.txt", "evaluation", "calibrated"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """How the videos of a test set are run through a model."""

    batch_size: int = 8
    """Videos processed at a time, over all processes."""
    num_workers: int = 0
    """Decoding processes for each process; 0: decode in the process itself."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware is fast at it, else fp32."""

    def __post_init__(self) -> None:
        require(self, 1, "batch_size")
        require(self, 0, "num_workers")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluationSettings, SourceSettings, ClockSettings):
    """Settings of `evaluate`; without `manifest` and `dataset` a run is evaluated on its own test part.

    Raises `UserError` for a file or folder that is not there, and for values out of range.
    """

    model: str | list[str]
    """Run folder, model folder, or the name of a repository on the Hugging Face Hub; or a file of `svfap export` (.onnx), which
    runs on the CPU in its own precision. Several, as `--model a b c`: an ensemble, whose outputs are averaged."""
    manifest: Path | None = None
    """CSV of test videos with their labels or values, also in a folder of `svfap pack` or at its URL; default: the test part of
    what the run was trained on."""
    dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack`, or URL of packed data, in place of a manifest: the test part of one of its folds
    is evaluated."""
    fold: str | None = None
    """Fold of the dataset; default: its only one."""
    out: Path | None = None
    """Folder for the results; default: MODEL/evaluation, of a file the folder NAME.evaluation beside it. An ensemble needs it."""
    head: str | None = None
    """Of a model with several heads the one to evaluate, into OUT/HEAD; default: each that the test set has labels of."""
    label_map: str | None = None
    """For a test set with other classes than the model's: a YAML file with `labels`, from labels of the test set to classes that
    are scored, and `outputs`, from classes of the model to these; null leaves out. auto: by names of the same emotion."""
    score_by: str | list[str] = field(default_factory=list)
    """Columns of the manifest, as `--score_by gender age_group`: the scores of the videos of each value, with their intervals."""
    by_group: bool | None = None
    """Average the outputs over each group of videos and score every group once; default: where the manifest has a column
    `group` and the model is not frame-level."""
    invalid_marks: list[float] = field(default_factory=list)
    """Numbers that mean "not annotated" in labels of frames, as [-5] in Aff-Wild2; scores leave these frames out. An empty cell
    and the class -1 always mean it."""
    label_range: tuple[float, float] | None = None
    """Lowest and highest value of labels of frames; frames with a value outside are left out. Default: the dataset's, else
    none."""
    num_segments: int = 2
    """Temporal views of each video."""
    num_crops: int = 2
    """Spatial views of each segment, along the longer side of the frame. For models with frame_fit=squash, the default, they
    coincide, as published: frames are resized to squares."""
    flip: bool = False
    """Show each view mirrored as well, and average both. Not in the paper's protocol; doubles the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ClockSettings.__post_init__(self)
        require(self, 1, "num_segments", "num_crops")
        require_numbers(self, "invalid_marks")
        if self.manifest is not None and self.dataset is not None:
            raise UserError("give either `manifest` (a CSV of test videos) or `dataset` (a folder of `svfap prepare`)")
        if self.fold is not None and self.manifest is not None:
            raise UserError(f"fold={self.fold}: only a dataset has folds; give `dataset` in place of `manifest`")
        require_manifest("manifest", self.manifest)
        if not self.models:
            raise UserError("model: is an empty list; name one or several models")
        for model in self.models:
            if not is_hub_name(model):
                require_model(model)
        places = [Path(model).resolve() if Path(model).exists() else model for model in self.models]
        if twice := next((model for n, model in enumerate(self.models) if places[n] in places[:n]), None):
            raise UserError(f"model: {twice} is given twice; each model of an ensemble counts once")
        if len(self.models) > 1 and self.out is None:
            raise UserError("out: give a folder for the results of an ensemble, as they belong to none of its models")
        if self.manifest is None and self.dataset is None and self.run_config is None:
            which = "an ensemble has no run" if len(self.models) > 1 else f"{self.models[0]} is not the folder of a run"
            raise UserError(
                "give either `manifest` (a CSV of test videos) or `dataset` (a folder of `svfap prepare`): "
                f"{which}, whose own test part would be known"
            )
        if self.label_map not in (None, "auto") and not Path(self.label_map).is_file():
            raise UserError(f"label_map={self.label_map}: no such file; give a YAML file, or auto")

    @property
    def models(self) -> list[str]:
        """The model, or those of an ensemble."""
        return [self.model] if isinstance(self.model, str) else list(self.model)

    @property
    def columns(self) -> list[str]:
        """Those of `score_by`."""
        given = self.score_by.split(",") if isinstance(self.score_by, str) else self.score_by
        return [name.strip() for name in given if name.strip()]

    @property
    def run_config(self) -> Path | None:
        """The settings of the run that the model is from, where it is the folder of a run or its best/ or last/."""
        return None if len(self.models) > 1 else run_config_of(self.models[0])

    @property
    def out_folder(self) -> Path:
        """Where the results go: `out`, or its default."""
        if self.out is not None:
            return self.out
        model = local_model(self.models[0]) or Path(self.models[0])
        of_file = model.is_file() or is_exported(model)
        return model.with_suffix(".evaluation") if of_file else model / EVALUATION_FOLDER


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(EvaluationSettings, SourceSettings, ClockSettings):
    """Settings of `calibrate`; without `manifest` and `dataset` the temperature is fitted on the run's own validation part.

    Raises `UserError` for a file or folder that is not there, and for values out of range.
    """

    manifest: Path | None = None
    """CSV of labelled videos that the model was neither trained nor is tested on; default: the validation part of the run."""
    dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack` in place of a manifest: the validation part of one of its folds is used."""
    fold: str | None = None
    """Fold of the dataset; default: its only one."""
    out: Path | None = None
    """Folder for the calibrated model; default: RUN/calibrated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ClockSettings.__post_init__(self)
        if self.manifest is not None and self.dataset is not None:
            raise UserError("give either `manifest` (a CSV of videos) or `dataset` (a folder of `svfap prepare`)")
        if self.fold is not None and self.dataset is None:
            raise UserError(f"fold={self.fold}: only a dataset has folds; give `dataset`")
        if self.split is not None and self.manifest is None:
            raise UserError(f"split={self.split}: chooses rows of a manifest; give `manifest`")
        require_manifest("manifest", self.manifest)
        require_dataset("dataset", self.dataset)

    def out_folder(self, model: str) -> Path:
        """Where the calibrated model goes: `out`, or its default. Raises `UserError` if it is there, or has no default."""
        folder = local_model(model)
        if self.out is None and (folder is None or folder.is_file() or shipped_folder(model) is not None):
            raise UserError(f"out: give a folder for the calibrated model, as {model} is no folder of a run or model")
        run = run_config_of(model)
        out = self.out or (run.parent if run is not None else Path(model)) / CALIBRATED_FOLDER
        if out.exists():
            raise UserError(f"{out}: exists already; remove it, or choose another folder with `out`")
        return out


def run_config_of(model: str) -> Path | None:
    """The settings of the run that a model is from, where it is the folder of a run or its best/, last/ or calibrated/."""
    if shipped_folder(model) is not None:
        return None
    files = (folder / RUN_CONFIG for folder in (Path(model), Path(model).absolute().parent))
    return next((file for file in files if file.is_file()), None)


def require_folds(out: Path) -> Path:
    """The file in `out` that describes its folds. Raises `UserError` if there is none."""
    file = out / FOLDS_FILE
    if not file.is_file():
        raise UserError(f"{out}: holds no {FOLDS_FILE}; name a folder of `svfap finetune --fold all`, or give `models`")
    return file


def models_of_folds(models: str, prepared: PreparedDataset) -> list[str]:
    """The model of each fold of a dataset; models: as in `PoolConfig`. Raises `UserError` where one is not there."""
    if "{fold}" not in models and len(prepared.folds) > 1:
        raise UserError(
            f"models={models}: must hold {{fold}}, as in 'models/fold_{{fold}}'; {prepared.title} has several"
        )
    names = [models.replace("{fold}", fold.name) for fold in prepared.folds]
    for name in dict.fromkeys(names):
        require_model(name, "models")
    return names


@dataclass(frozen=True, kw_only=True)
class PoolConfig(EvaluationSettings):
    """Settings of `pool`.

    Raises `UserError` for values out of range, and for `models` without `dataset` and `out`.
    """

    out: Path | None = None
    """Folder with an evaluation of every fold, into which the table is written; with `models`, the evaluations as well."""
    models: str | None = None
    """Models to evaluate first, with {fold} for the name of the fold, as 'models/fold_{fold}'."""
    dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack`, or URL of packed data; default: the one that the folds were trained on."""
    allow_incomplete: bool = False
    """Pool even if folds or videos are missing; the caption says which."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.models is not None and (self.dataset is None or self.out is None):
            raise UserError(
                "models: need `dataset`, whose test parts they are evaluated on, and `out`, a folder for the results"
            )


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """Settings of `compare`. Raises `UserError` for a metric that is not known."""

    reference: str | None = None
    """Name of the row that the others are compared with; default: the first."""
    metrics: str | list[str] | None = None
    """Scores to compare, as '[uar, weighted_f1]'; default: UAR and WAR, or CCC and PCC. p is corrected for the rows of each."""
    allow_incomplete: bool = False
    """Compare on the videos that all runs have, even if some lack videos; the caption says how many."""
    out: Path | None = None
    """Folder for compare.md, .csv, .tex, .json and .png; default: the table is only shown."""

    def __post_init__(self) -> None:
        _ = self.chosen

    @property
    def chosen(self) -> list[str]:
        """The chosen metrics; empty for the default."""
        return [] if self.metrics is None else several(self, "metrics", metric_keys(tables=True))
