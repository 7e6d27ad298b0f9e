"""What models are evaluated on: the test videos with their labels, found, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from svfap.console import counted, say, silent
from svfap.data.heads import with_labels
from svfap.data.manifest import Manifest, read_manifest, read_whole_manifest
from svfap.data.manifest_rows import LabelError
from svfap.data.prepared import read_dataset
from svfap.data.targets import all_targets, frame_values_digest, require_values, with_frame_values
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.config import EvaluateConfig, run_config_of
from svfap.evaluation.ensemble import require_alike
from svfap.evaluation.label_map import AUTO, LabelMap, read_label_map
from svfap.evaluation.seen import seen_by
from svfap.evaluation.views import scored_by_group
from svfap.files import file_digest
from svfap.formats import read_settings_file
from svfap.metric_table import SupervisedTask
from svfap.model.base import Model
from svfap.model.config import Head, ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.weighted import weighted_paths
from svfap.weights.exported import ExportedModel, fingerprint_of

AnyModel = Perceiver | ExportedModel
MOST_VALUES = 100  # of a column that scores are given by


@dataclass(frozen=True)
class EvaluationSet:
    """What models with one head are evaluated on, read and checked; see `_labelled` and `_columns`.

    head: what it is of the model that was given; None: its only one. origin: see `provenance`. seen: by model, of `seen_by`.
    """

    config: EvaluateConfig
    head: Head | None
    manifest: Path
    videos: Manifest
    mapped: LabelMap | None
    left_out: dict[str, int]
    origin: dict[str, Any]
    seen: dict[str, dict[str, int]]
    by_group: bool
    columns: dict[str, dict[str, str]]


def evaluation_set(config: EvaluateConfig, models: Sequence[AnyModel], head: Head | None = None) -> EvaluationSet:
    """All that has to be right before models with one head are evaluated. Raises `UserError`."""
    manifest, root, label_range = _test_set(config)
    require_alike(config.models, [model.config for model in models], [fingerprint_of(model) for model in models])
    videos, mapped, left_out = _labelled(config, manifest, root, label_range, models[0].config, head)
    videos.require_files()
    origin = provenance(config, models, manifest, videos.root)
    frame_level = models[0].config.frame_level
    if videos.dimensions is not None:
        videos = with_frame_values(videos) if frame_level else videos
        require_values(videos, all_targets(videos, frame_level))
    seen: dict[str, dict[str, int]] = {}
    for name in config.models:
        run = {} if (file := run_config_of(name)) is None else read_settings_file(file)
        if any(before := seen_by(run, videos)):
            seen[name] = before._asdict()
            for text in before.warnings(name, len(videos)):
                say(f"WARNING: {text}")
    by_group = scored_by_group(videos, models[0].config, config.by_group)
    columns = _columns(config, manifest, root, videos, by_group)
    return EvaluationSet(config, head, manifest, videos, mapped, left_out, origin, seen, by_group, columns)


def with_own_test_part(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with the run's own test part, if neither `manifest` nor `dataset` is given; prints which it is.

    It is the test part of the fold that the run was trained on; or the rows of its manifest with `split` test, if the run was
    trained on another split. Raises `UserError` if there is none.
    """
    if config.manifest is not None or config.dataset is not None:
        return config
    assert config.run_config is not None
    run = read_settings_file(config.run_config)
    root = config.root or (Path(run["root"]) if run.get("root") else None)
    trained_on, dataset, manifest = (run.get(name) for name in ("split", "dataset", "manifest"))
    if isinstance(dataset or manifest, list):
        name = "dataset" if dataset else "manifest"
        known = ", ".join(str(each.path) for each in weighted_paths(dataset or manifest))
        raise UserError(
            f"{config.run_config}: the run was trained on several, {known}; say which to test on with `{name}`"
        )
    if dataset is not None:
        fold = config.fold or run.get("fold")
        say(f"evaluating on the run's own test part: {dataset}{f', fold {fold}' if fold else ''}")
        return replace(config, dataset=Path(dataset), fold=fold, root=root)
    if trained_on is None or manifest is None or config.fold is not None:
        raise UserError(
            f"{config.run_config}: the run knows no test part, as it was trained on "
            f"{'all rows of ' if trained_on is None else ''}{manifest}; give `manifest` or `dataset`"
        )
    split = config.split or "test"
    say(f"evaluating on the run's own test part: {manifest}, split {split}")
    return replace(config, manifest=Path(manifest), split=split, root=root)


def _test_set(config: EvaluateConfig) -> tuple[Path, Path | None, tuple[float, float] | None]:
    """The manifest, the folder that its paths are relative to, and the range of its labels."""
    if config.dataset is None:
        assert config.manifest is not None
        return config.manifest, config.root, config.label_range
    prepared = read_dataset(config.dataset)
    fold = prepared.fold(config.fold)
    if fold.test is None:
        raise UserError(f"{config.dataset}: fold {fold.name} has no test part; give `manifest` instead")
    return fold.test, config.root or prepared.root, config.label_range or prepared.label_range


def _labelled(
    config: EvaluateConfig,
    manifest: Path,
    root: Path | None,
    label_range: tuple[float, float] | None,
    shape: ModelConfig,
    head: Head | None,
) -> tuple[Manifest, LabelMap | None, dict[str, int]]:
    """The test videos, of one of several heads those that have a label of it, the map of their labels, and how many rows it
    leaves out by label. Raises `UserError`."""
    task = cast(SupervisedTask, shape.task)
    names: dict[str, Any] = {"label_names" if task == "classification" else "dimensions": shape.label_names}
    if config.label_map is not None:
        if task != "classification" or shape.frame_level:
            raise UserError("label_map: is for classes of whole videos; this model predicts something else")
        names = {"label_names": read_dataset(config.dataset).label_names if config.dataset is not None else None}
    names |= {"invalid_marks": config.invalid_marks, "label_range": label_range}
    names |= {} if head is None else {"label_column": head.label_column, "partial": True}
    try:
        videos = read_manifest(
            manifest, root=root, task=task, split=config.split, frame_level=shape.frame_level, **names
        )
    except LabelError as error:
        if config.label_map is not None or task != "classification" or shape.frame_level:
            raise
        try:
            with silent():
                _labelled(replace(config, label_map=AUTO), manifest, root, label_range, shape, head)
        except UserError:
            raise error from None  # which is no help here
        chosen = "" if head is None else f"head={head.name} and "
        fix = f"give {chosen}label_map=auto to score labels that name the same emotion as a class, and leave out the others"
        raise LabelError(f"{error}; {fix}") from None
    if head is not None:
        videos = with_labels(videos, shape.frame_level, head.name)
    if config.label_map is None:
        return videos, None, {}
    assert videos.label_names is not None
    mapped = read_label_map(config.label_map, videos.label_names, shape.label_names)
    kept, left_out = mapped.manifest(videos)
    if never := [name for name, target in mapped.of_output.items() if target is None]:
        say(f"classes of the model that are never predicted, as no label stands for them: {', '.join(never)}")
    if left_out:
        listed = ", ".join(f"{name} {number}" for name, number in left_out.items())
        say(
            f"{len(videos) - len(kept)} of {counted(len(videos), 'video')} are left out, as their labels have no class: {listed}"
        )
    return kept, mapped, left_out


def _columns(
    config: EvaluateConfig, manifest: Path, root: Path | None, videos: Manifest, by_group: bool
) -> dict[str, dict[str, str]]:
    """Column of `score_by` -> video -> value.

    Raises `UserError` for a column that is not there, has too many values or a name that no file can have, or divides a group
    whose outputs are averaged.
    """
    if not config.columns:
        return {}
    rows, text = read_whole_manifest(manifest, root=root, split=config.split)
    keys = [sample.key for sample in rows]
    shown = {sample.key for sample in videos}
    found = {}
    for name in config.columns:
        if name == "prediction" or name.startswith(("prob_", "pred_", "target_")):
            raise UserError(f"score_by: {name!r} is a column of {tables.PREDICTIONS_FILE}; rename that of {manifest}")
        if name not in text:
            raise UserError(f"score_by: {manifest} has no column {name!r}; it has {', '.join(map(str, text.columns))}")
        if "/" in name:
            raise UserError(
                f"score_by: the table of column {name!r} is a file by_NAME, so NAME may have no /; rename the column"
            )
        found[name] = {key: value for key, value in zip(keys, text[name], strict=True) if key in shown}
        if (number := len(set(found[name].values()))) > MOST_VALUES:
            raise UserError(
                f"score_by: column {name!r} of {manifest} has {number} values, more than {MOST_VALUES}; group them in another "
                "column"
            )
        value_of: dict[str, str] = {}
        for group, value in ((sample.group, found[name][sample.key]) for sample in videos if by_group and sample.group):
            if (other := value_of.setdefault(group, value)) != value:
                raise UserError(
                    f"score_by: column {name!r} of {manifest} divides group {group!r} ({other!r}, {value!r}), whose videos are "
                    "scored as one; give by_group=false to score each video"
                )
    return found


def provenance(
    config: EvaluateConfig, models: Sequence[Model | ExportedModel], manifest: Path, root: Path
) -> dict[str, Any]:
    """What an evaluation's results depend on, as in `metrics.json`: digests of weights and labels, and settings.

    models: one, or those of an ensemble. root: folder that the manifest's paths are relative to; the files of values per frame
    count if the model needs them.
    """
    names = ("num_segments", "num_crops", "precision", "fps", "frames_fps", "invalid_marks", "label_range")
    values = {name: getattr(config, name) for name in names}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    settings |= {"flip": True} if config.flip else {}
    if config.label_map is not None:
        settings["label_map"] = config.label_map if config.label_map == AUTO else file_digest(Path(config.label_map))
    weights = [fingerprint_of(model) for model in models]
    origin: dict[str, Any] = {"weights": weights if len(weights) > 1 else weights[0]}
    origin |= {"manifest_digest": file_digest(manifest), "settings": settings}
    if models[0].config.frame_level and (digest := frame_values_digest(manifest, root)):
        origin["frame_values_digest"] = digest
    return origin
