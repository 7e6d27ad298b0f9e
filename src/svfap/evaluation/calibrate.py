"""Calibrate a classifier by a temperature that is fitted on validation videos and folded into its last layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import counted, say, silent
from svfap.data.manifest import read_manifest, read_whole_manifest
from svfap.data.prepared import read_dataset
from svfap.data.split import Units, hold_out
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.config import CalibrateConfig, EvaluateConfig, run_config_of
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.reliability import fit_temperature, is_at_bound, log_likelihood_loss, reliability
from svfap.evaluation.seen import parts_of, tested_by
from svfap.files import make_folder, replacing_folder
from svfap.formats import read_settings_file
from svfap.model.perceiver import Perceiver
from svfap.view.tables import write_table
from svfap.weighted import weighted_paths
from svfap.weights.folder import load_model

FEW = 20  # videos, below which a temperature is mostly chance
TABLE = "calibration"  # the files of the table, without suffix
CAPTION = (
    "T: temperature. NLL: negative log-likelihood, in nats, lower is better. ECE: expected calibration error; by chance: that of "
    "a perfectly calibrated model with as many outputs. Confidence: mean probability of the class predicted. After: on the "
    "videos that the temperature was fitted on. After, others: each half of the people with the temperature of the other half."
)


class Calibrated(NamedTuple):
    """A calibrated model: its folder, the temperature of each head ('' of the only one), and the table of before and after.

    table: a row for each of before, after, and after with the temperature of other people, as shown and written; see `CAPTION`.
    """

    out: Path
    temperatures: dict[str, float]
    table: pd.DataFrame


class _Videos(NamedTuple):
    """What a temperature is fitted on: settings of `EvaluateConfig`, and what the model's provenance says of it."""

    source: dict[str, Any]
    origin: str


class _Outputs(NamedTuple):
    """Of videos, or of frames of a frame-level model: class indices (N,), log probabilities (N, K), and who each is of."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    units: NDArray[np.object_]
    num_videos: int


def calibrate(model: str, config: CalibrateConfig | None = None) -> Calibrated:
    """Write a copy of a classifier whose logits are divided by the temperature that fits validation videos best.

    model: as `load_model` takes it; it is not changed. Every video is shown once, in one view, as `svfap predict` shows a window.
    Of several heads each with classes that the videos have labels of is calibrated. Writes a model folder, with
    calibration.md, .csv and .tex.

    Raises:
        UserError: a model without classes; no validation videos, ones of a single class, or ones of the run's own test part;
            `out` is there already.
    """
    config = config or CalibrateConfig()
    out = config.out_folder(model)
    loaded = load_model(model)
    of_classes = [name for name, shape in loaded.config.outputs.items() if shape.task == "classification"]
    if not isinstance(loaded, Perceiver) or not of_classes:
        raise UserError(
            f"{model}: is a {loaded.config.task} model without classes; a temperature is for probabilities of classes"
        )
    run = {} if (file := run_config_of(model)) is None else read_settings_file(file)
    make_folder(out.parent)
    with TemporaryDirectory() as scratch:
        videos = _videos_of(model, config, run, Path(scratch))
        found = _outputs_of(model, config, of_classes, videos, Path(scratch))
    parts: list[pd.DataFrame] = []
    temperatures: dict[str, float] = {}
    calibrated_on: dict[str, str] = {}
    for head, outputs in found.items():
        temperatures[head] = fit_temperature(outputs.labels, outputs.logits)
        _say_doubts(head, temperatures[head], outputs)
        part = _table(outputs, temperatures[head])
        if head:
            part.insert(0, "head", head)
        parts.append(part)
        calibrated_on[head] = f"{counted(outputs.num_videos, 'video')} of {videos.origin}"
    table = pd.concat(parts, ignore_index=True)
    before = loaded.config.provenance.get("temperature", {})
    before = before if isinstance(before, Mapping) else {"": before}
    product = {head: before.get(head, 1.0) * temperature for head, temperature in temperatures.items()}
    notes: dict[str, dict[str, Any]] = {"temperature": product, "calibrated_on": calibrated_on}
    known = {name: each.get("", each) for name, each in notes.items()}
    with replacing_folder(out) as folder:
        loaded.divided_by(temperatures, **known).save_pretrained(folder)
        write_table(folder / TABLE, table, CAPTION)
    return Calibrated(out, temperatures, table)


def _videos_of(model: str, config: CalibrateConfig, run: Mapping[str, Any], scratch: Path) -> _Videos:
    """The validation videos, as given or else the run's own. Raises `UserError`, also if some are of its test part."""
    manifest, root, split, fold = config.manifest, config.root, config.split, None
    words = ""
    if config.dataset is not None:
        dataset = read_dataset(config.dataset)
        fold = dataset.fold(config.fold)
        if fold.val is None:
            raise UserError(f"{config.dataset}: fold {fold.name} has no validation part; give `manifest` instead")
        manifest, root = fold.val, root or dataset.root
    elif manifest is None:
        manifest, root, split, words = _own_validation(model, config, run, scratch)
    with silent():
        listed = read_manifest(manifest, root=root, split=split, task="unlabelled")
    if tested := tested_by(run, listed):
        raise UserError(
            f"{tested} of the {counted(len(listed), 'video')} of {manifest} are of the test part of {model}, whose scores would "
            "then say nothing; give other videos as `manifest`"
        )
    origin = words or manifest.name + (f", split {split}" if split else "")
    return _Videos({"manifest": manifest, "root": root, "split": split}, origin)


def _own_validation(
    model: str, config: CalibrateConfig, run: Mapping[str, Any], scratch: Path
) -> tuple[Path, Path | None, str | None, str]:
    """Manifest, root and split of a run's own validation part, and its origin in words if the file is one in `scratch`.

    Raises `UserError` if there is none.
    """
    fix = "give labelled videos as `manifest`, or a `dataset`, whose validation part is used"
    if not run:
        raise UserError(f"{model}: is not the folder of a run, whose own validation videos would be known; {fix}")
    root = config.root or (Path(run["root"]) if run.get("root") else None)
    manifests, validating = (weighted_paths(run.get(name)) for name in ("manifest", "val_manifest"))
    if len(validating or manifests) != 1:
        listed = ", ".join(str(each.path) for each in validating or manifests)
        raise UserError(f"{model}: the run was validated on several, {listed}; say which with `manifest`")
    file = (validating or manifests)[0].path
    if not file.is_file():
        raise UserError(f"{model}: the manifest of its validation part, {file}, is gone; {fix}")
    if validating or run.get("val_split") is not None:
        split = run.get("val_split")
        say(f"fitting on the run's own validation part: {file}{f', split {split}' if split else ''}")
        return file, root, split, ""
    if not run.get("val_fraction"):
        raise UserError(f"{model}: the run had no validation videos; {fix}")
    with silent():
        validation = parts_of(run)[1]
        whole, text = read_whole_manifest(file, root=root, split=run.get("split"))
    assert validation is not None
    keys = {sample.key for sample in validation}
    rows = text[[sample.key in keys for sample in whole]]
    rows.to_csv(scratch / "validation.csv", index=False)
    say(f"fitting on the run's own validation part: {len(rows)} of {counted(len(whole), 'video')} of {file}")
    return scratch / "validation.csv", whole.root, None, f"{file.name}, those that training had set aside"


def _outputs_of(
    model: str, config: CalibrateConfig, heads: list[str], videos: _Videos, scratch: Path
) -> dict[str, _Outputs]:
    """What each head with classes makes of the videos. Raises `UserError`, also for labels of a single class."""
    shared = {name: getattr(config, name) for name in ("batch_size", "num_workers", "precision", "fps", "frames_fps")}
    one_view: dict[str, Any] = {"num_segments": 1, "num_crops": 1, "by_group": False}
    one_view["head"] = heads[0] if heads[0] and len(heads) == 1 else None
    out = scratch / "evaluation"
    done = evaluate(EvaluateConfig(model=model, out=out, **videos.source, **shared, **one_view))
    if done.unreadable:
        path, reason = next(iter(done.unreadable.items()))
        say(f"{counted(len(done.unreadable), 'video')} left out, which cannot be read; the first: {path}: {reason}")
    of_head = done.metrics.get("heads", {"": done.metrics})
    if not (there := [name for name in heads if name in of_head]):
        raise UserError(f"{videos.source['manifest']}: has no labels of {', '.join(heads)}, which have classes")
    return {name: _read(out / name, name, videos) for name in there}


def _read(folder: Path, head: str, videos: _Videos) -> _Outputs:
    shown = tables.read_predictions(folder / tables.PREDICTIONS_FILE)
    frames = folder / tables.FRAMES_FILE
    table = tables.read_predictions(frames) if frames.is_file() else shown
    found = tables.labelled_outputs(table, folder)
    assert found is not None
    if len(np.unique(found.targets)) == 1:
        where = f"{videos.origin}: head {head}" if head else videos.origin
        raise UserError(
            f"{where}: all labels are {found.names[found.targets[0]]}; a temperature needs videos of several classes"
        )
    # The smallest probability of float32 in place of 0, whose logarithm is no number.
    logits = np.log(np.maximum(found.outputs, np.finfo(np.float32).tiny))
    return _Outputs(found.targets, logits, tables.drawn_units(table, shown).names, len(shown))


def _say_doubts(head: str, temperature: float, outputs: _Outputs) -> None:
    of = f" of head {head}" if head else ""
    if outputs.num_videos < FEW:
        say(
            f"WARNING: the temperature{of} is fitted on {counted(outputs.num_videos, 'video')}; of fewer than {FEW} it is mostly "
            "chance"
        )
    if is_at_bound(temperature):
        which, why = "highest", "the outputs say nothing about these labels"
        if temperature < 1:
            perfect = (outputs.logits.argmax(axis=1) == outputs.labels).all()
            which, why = "lowest", "the probabilities hardly differ between classes"
            why = "all are told apart" if perfect else why
        say(f"WARNING: the temperature{of}, {temperature:.3g}, is the {which} that is tried: {why}; the best is beyond")


def _table(outputs: _Outputs, temperature: float) -> pd.DataFrame:
    """Before, after, and after with the temperature of others, where there are several people."""
    labels, logits = outputs.labels, outputs.logits
    rows = [
        _row("before", "1", labels, logits),
        _row("after", f"{temperature:.3f}", labels, logits / temperature),
    ]
    number, names = pd.factorize(outputs.units)
    if len(names) > 1:
        units = Units(number.astype(np.int64), "unit", list(names))
        with silent():
            first = hold_out(len(labels), 0.5, 0, units, labels)
        divided, used = logits.copy(), []
        for half in (first, ~first):
            used.append(fit_temperature(labels[~half], logits[~half]))
            divided[half] /= used[-1]
        rows.append(_row("after, others", ", ".join(f"{each:.3f}" for each in used), labels, divided))
    return pd.DataFrame(rows)


def _row(name: str, temperature: str, labels: NDArray[np.int64], logits: NDArray[np.float64]) -> dict[str, str]:
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    found = reliability(labels, scores)
    confidence, accuracy = (np.average(each, weights=found.count) for each in (found.confidence, found.accuracy))
    return {
        "model": name,
        "T": temperature,
        "NLL": f"{log_likelihood_loss(labels, logits):.4f}",
        "ECE": f"{found.ece:.4f}",
        "ECE by chance": f"{found.chance:.4f}",
        "confidence, %": f"{100 * confidence:.1f}",
        "accuracy, %": f"{100 * accuracy:.1f}",
    }
