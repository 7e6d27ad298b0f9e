"""`svfap probe`: what simple readers find in the frozen features of an encoder, beside an untrained one, pixels and chance."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from svfap.console import counted, say, track
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.data.prepared import say_crops
from svfap.data.rates import FRAMES_NOTE, Clock, look_at_rates
from svfap.device import pick_device
from svfap.errors import UserError
from svfap.evaluation.confidence import FEW, Interval, SubjectScore, intervals, subject_scores
from svfap.evaluation.metrics import average_views, write_metrics
from svfap.evaluation.predictions import UNREADABLE_FILE, write_csv
from svfap.files import make_folder, only_writer
from svfap.metric_table import SupervisedTask, interval_text, metric_heading, metric_name
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.model.layers import steps_to_frames
from svfap.probe.config import EPOCHS, MIN_STEPS, PROBE_FILE, ProbeConfig
from svfap.probe.parts import Parts, read_parts, require_classes
from svfap.probe.readers import attentive_probe, knn_probe, linear_probe
from svfap.probe.tokens import FeatureCache, Tokens, data_digest, encode, encoder_digest, read_pixels, untrained_encoder
from svfap.shipped import is_checkpoint
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import score_intervals
from svfap.view.tables import write_table
from svfap.weights.folder import fingerprint, load_model

Outputs = NDArray[np.float64]

SET_NAMES = {"last": "last stage", "fused": "fused stages", "tokens": "all tokens", "pixels": "pixels"}
TRAINED, UNTRAINED, PIXELS, CHANCE = "trained", "untrained", "pixels", "chance"
MAIN = {"classification": ("uar", "war"), "regression": ("ccc", "ccc_within_people", "pcc")}
HOW_IT_RUNS = ("device", "precision", "batch_size", "num_workers", "out")  # settings that are no part of the question
COMPARED = ("uar", "ccc", "ccc_within_people")  # shown with their differences to the untrained encoder


class Row(NamedTuple):
    """What a row of the table is about: reader, features, and encoder (`trained`, `untrained`, `pixels`, `chance`)."""

    reader: str
    features: str
    encoder: str

    @property
    def name(self) -> str:
        """As printed."""
        if self.encoder == CHANCE:
            return CHANCE
        features = SET_NAMES.get(self.features, self.features.replace("_", " "))
        return f"{self.reader}, {features}" + (f", {self.encoder}" if self.encoder == UNTRAINED else "")


@dataclass(frozen=True)
class Probed:
    """The result of `probe_model`.

    out: folder of the files. table: one line for each row and score, with the columns reader, features, encoder, score,
    value, low, high, and difference, difference_low, difference_high to the untrained encoder (NaN where there is none).
    summary, caption: the table as text cells. scores: row -> key -> the score as sums over people, to compare with others by
    `svfap.evaluation.confidence.interval`. num_expected: videos. unreadable: key -> reason.
    """

    out: Path
    table: pd.DataFrame
    summary: pd.DataFrame
    caption: str
    scores: Mapping[Row, Mapping[str, SubjectScore]]
    num_expected: int
    unreadable: Mapping[str, str] = field(default_factory=dict)


def probe_model(model: str | Path | Model, config: ProbeConfig) -> Probed:
    """Read labels or values from the frozen features of an encoder, by the readers and on the data that the settings name.

    model: what `load_model(…, task="features")` takes, or a loaded model (then `config.out` is needed). Its weights stay as
    they are. The same readers read an untrained encoder of its shape, and a linear one the pixels. Videos are decoded once;
    features are kept in `out`/features and used again.

    Writes into `config.out_folder`: probe.md, .csv and .tex (the table), probe.json (all numbers), probe.png, and
    unreadable.csv; says which other probe they replace. Raises `UserError` for a model or data that cannot be used, people in
    both parts, no readable video.
    """
    loaded = model if isinstance(model, Model) else load_model(model, "features" if is_checkpoint(model) else None)
    out = config.out_folder(None if isinstance(model, Model) else model)
    parts = read_parts(config)
    parts.manifest.require_files()
    clips = clips_of(config, loaded.config, parts)
    make_folder(out)
    with only_writer(out / PROBE_FILE):
        question = {
            "weights": fingerprint(loaded), "data": parts.title, "task": task_of(parts), "names": parts.names,
            "settings": asdict(config),
        }  # fmt: skip
        _say_what_is_replaced(out / PROBE_FILE, question)
        encoders = {TRAINED: loaded.encoder, UNTRAINED: untrained_encoder(loaded.config)}
        tokens = features_of(config, encoders, loaded.config, clips, out / "features")
        unreadable = dict(tokens[TRAINED].unreadable)
        parts_read = readable(parts, tokens[TRAINED])
        scores, chosen = _scores(config, tokens, parts_read)
        table = _table(scores, config)
        title = "an encoder" if isinstance(model, Model) else str(model)
        caption = _caption(title, config, parts_read, scores, chosen, len(unreadable))
        summary = _summary(table, parts)
        write_table(out / "probe", summary, caption)
        save_figure(score_intervals(bars_of(table), main_key(table)), out / "probe.png")
        write_csv(out / UNREADABLE_FILE, pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]))
        content = {
            "model": title, **question, "caption": caption,
            "num_expected": len(parts.manifest), "num_evaluated": len(parts.manifest) - len(unreadable),
            "attentive": {
                which: [{"rate": rate, "decay": decay} for rate, decay in each] for which, each in chosen.items()
            },
            "summary": summary.to_dict("records"), "scores": table.astype(object).where(table.notna(), None).to_dict("records"),
        }  # fmt: skip
        write_metrics(out / PROBE_FILE, content)
    return Probed(out, table, summary, caption, scores, len(parts.manifest), unreadable)


def _say_what_is_replaced(file: Path, question: Mapping[str, Any]) -> None:
    """Say which probe is in the file, if it answers another question: of other weights, data or settings."""
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text())
        now = json.loads(json.dumps(question, default=str))
        for each in (before, now):
            each["settings"] = {name: value for name, value in each["settings"].items() if name not in HOW_IT_RUNS}
        if all(before.get(name) == value for name, value in now.items()):
            return
        what = f"of {before['data']} ({', '.join(before['names'])}) by {', '.join(before['settings']['kind'])}"
        what += "" if before["weights"] == now["weights"] else ", with other weights"
    except (ValueError, TypeError, LookupError, AttributeError):
        what = "that cannot be read"
    say(f"{file}: the probe there, {what}, will be replaced by this one; `out` with another folder keeps both")


def main_key(table: pd.DataFrame) -> str:
    """The main score of a table of `Probed`: `uar` or `ccc`."""
    return "uar" if "uar" in set(table["score"]) else "ccc"


def bars_of(table: pd.DataFrame) -> dict[str, tuple[str, float, float, float]]:
    """Row as printed -> encoder, value, low, high of the main score, for `score_intervals`."""
    chosen = table[table["score"] == main_key(table)]
    columns = ("reader", "features", "encoder", "value", "low", "high")
    rows = chosen[list(columns)].itertuples(index=False, name=None)
    return {Row(*row[:3]).name: (row[2], *row[3:]) for row in rows}


def read_clips(
    reader: Callable[..., Outputs], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Outputs]:
    """Fit a reader on the views of the videos of each split and apply it to those that are scored.

    Each view is a sample; the outputs of the views of a video are averaged. flat: as in `Tokens`, False for the attentive
    reader. Returns the rows of the manifest (N,) and the outputs (runs, N, K).
    """
    targets, rows, found = parts.targets(), [], []
    for fit, test in parts.splits:
        known, new = (np.flatnonzero(np.isin(tokens.rows, part)) for part in (fit, test))
        of = tokens.rows[known]
        x, queries = (tokens.of_clips(name, clips, flat) for clips in (known, new))
        outputs = reader(x, targets[of], parts.people[of], queries)
        averaged = _averaged(tokens.rows[new], outputs.reshape(-1, *outputs.shape[-2:]), tokens.weights[new])
        rows.append(averaged[0])
        found.append(averaged[1])
    return np.concatenate(rows), np.concatenate(found, axis=1)


def read_frames(
    reader: Callable[..., Outputs], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Outputs, Outputs]:
    """As `read_clips`, for values of frames: every time step of a view is a sample, whose target is the mean of its frames.

    The outputs of the time steps are interpolated linearly to the frames, as `Perceiver` does, and those of a frame that is in
    several views are averaged. Returns the row (F,) of each annotated frame, the outputs (runs, F, K) and values (F, K).
    """
    assert tokens.values is not None
    found = []
    for fit, test in parts.splits:
        known, new = (np.flatnonzero(np.isin(tokens.rows, part)) for part in (fit, test))
        x, queries = (tokens.of_steps(name, clips, flat) for clips in (known, new))
        num_steps, (_, num_frames, num_values) = x.shape[1], tokens.values.shape
        targets, annotated = _step_targets(tokens.values[known], num_steps)
        if not annotated.any() or not np.isfinite(tokens.values[new]).all(axis=2).any():
            raise UserError(f"{parts.title}: no frame that is shown of a part is annotated; there is nothing to read")
        people = np.repeat(parts.people[tokens.rows[known]][:, None], num_steps, axis=1)
        samples = queries.reshape(-1, *queries.shape[2:])
        outputs = reader(x[annotated], targets[annotated], people[annotated], samples)
        frames = _interpolated(outputs.reshape(-1, len(new), num_steps, num_values), num_frames)
        values, shown = tokens.values[new], np.isfinite(tokens.values[new]).all(axis=2)
        # A number for each frame of each video.
        places = tokens.rows[new][:, None] * (tokens.frames.max() + 1) + tokens.frames[new]
        weights = np.repeat(tokens.weights[new][:, None], num_frames, axis=1)
        place, averaged = _averaged(places[shown], frames[:, shown], weights[shown])
        _, truth = _averaged(places[shown], values[shown][None].astype(np.float64), None)
        found.append((place // (tokens.frames.max() + 1), averaged, truth[0]))
    rows, read, truths = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(read, axis=1), np.concatenate(truths)


def read_outputs(
    reader: Callable[..., Outputs], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Outputs, NDArray[Any]]:
    """`read_clips`, or `read_frames` for values of frames: rows (N,), outputs (runs, N, K), and targets (N,) or (N, K)."""
    if parts.frame_level:
        return read_frames(reader, tokens, name, parts, flat)
    rows, outputs = read_clips(reader, tokens, name, parts, flat)
    return rows, outputs, parts.targets()[rows]


def read_scores(
    reader: Callable[..., Outputs], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> dict[str, SubjectScore]:
    """The scores of a reader, by key, as sums over the people that are scored; see `read_outputs`.

    Scores within people are left out where people are not known.
    """
    rows, outputs, truth = read_outputs(reader, tokens, name, parts, flat)
    scores = subject_scores(truth, outputs, _drawn_units(parts, rows), parts.names)
    shown = [key for key in MAIN[task_of(parts)] if parts.known or "within_people" not in key]
    shown += [f"{key}_{name}" for key in shown for name in parts.names]
    return {key: score for key, score in scores.items() if key in shown}


def clips_of(config: ProbeConfig, shape: ModelConfig, parts: Parts) -> ClipDataset:
    """The test views of all videos for a model of this shape, sampled as `svfap evaluate` does; says in what they differ
    from the training's.
    """
    manifest = parts.manifest
    clock = Clock.of(config.fps, shape.frame_rate, shape.span)
    rates, num_unknown = look_at_rates(manifest, config.frames_fps)
    clock.say_notes(rates)
    if num_unknown and clock.fps is not None:
        say(FRAMES_NOTE)
    say_crops(shape.face_crop, manifest.folders, manifest.path)
    return ClipDataset(
        manifest, "test", shape.num_frames, shape.sampling_stride, shape.img_size, seed=0,
        num_segments=config.num_segments, num_crops=config.num_crops, frame_fit=shape.frame_fit,
        frame_level=parts.frame_level, fps=clock.fps, frames_fps=config.frames_fps,
    )  # fmt: skip


def features_of(
    config: ProbeConfig, encoders: Mapping[str, TPSBT], shape: ModelConfig, clips: ClipDataset, folder: Path
) -> dict[str, Tokens]:
    """Features of each encoder by its key, and with the key `PIXELS` the pixels; kept in `folder` and used from there.

    shape: of the encoders. Videos are decoded once. The encoders are moved to the device, and in eval mode afterwards.
    """
    device = pick_device(config.device)
    readers: dict[str, Callable[[Sequence[str]], Any]] = {
        name: lambda sets, encoder=encoder: partial(encode, encoder.to(device), sets=tuple(sets))  # type: ignore[misc]
        for name, encoder in encoders.items()
    }
    num_steps = shape.num_time_steps
    readers[PIXELS] = lambda sets: partial(read_pixels, num_steps=num_steps)
    names = {name: encoder_digest(encoder.eval()) for name, encoder in encoders.items()} | {
        PIXELS: f"pixels_{num_steps}"
    }
    sets = [name for name in config.features if name != "tokens" or "linear" in config.kinds]
    sets += ["tokens"] if "attentive" in config.kinds else []
    needed = {**dict.fromkeys(encoders, sets), PIXELS: [PIXELS]}
    cache = FeatureCache(folder, data_digest(clips))
    pin = device.type == "cuda"

    def batches() -> Any:
        return make_loader(
            clips, config.batch_size, shuffle=False, seed=0, num_workers=config.num_workers, pin_memory=pin
        )

    return cache.read(readers, names, needed, batches, device, config.precision, "reading")


def readable(parts: Parts, tokens: Tokens) -> Parts:
    """The parts without the videos that could not be read. Raises `UserError` if nothing, or one class, is left of one."""
    there = np.unique(tokens.rows)
    splits = [(fit[np.isin(fit, there)], test[np.isin(test, there)]) for fit, test in parts.splits]
    for name, rows in zip(("fits the readers", "is scored"), zip(*splits, strict=True), strict=True):
        if not all(map(len, rows)):
            first = ": ".join(next(iter(tokens.unreadable.items()), (parts.title, "it is empty")))
            raise UserError(f"{parts.title}: no video of the part that {name} can be read; {first}")
    left = parts.with_splits(splits)
    require_classes(left)
    return left


def _scores(
    config: ProbeConfig, tokens: Mapping[str, Tokens], parts: Parts
) -> tuple[dict[Row, dict[str, SubjectScore]], dict[str, list[tuple[float, float]]]]:
    """The scores of all readers, as sums over the people that are scored; and for each encoder the learning rate and weight
    decay that the attentive reader chose, in each split.
    """
    found: dict[Row, dict[str, SubjectScore]] = {}
    chosen: dict[str, list[tuple[float, float]]] = {}
    planned = list(_plan(config, tokens[TRAINED]))
    rows = [Row(kind, name, which) for kind, name in planned for which in (TRAINED, UNTRAINED)]
    rows.append(Row("linear", PIXELS, PIXELS))
    for row in track(rows, "probing"):
        keep = chosen.setdefault(row.encoder, []).append if row.reader == "attentive" else None
        reader = reader_of(config, row.reader, parts, keep)
        found[row] = read_scores(reader, tokens[row.encoder], row.features, parts, flat=row.reader != "attentive")
    found[Row(CHANCE, "", CHANCE)] = read_scores(reader_of(config, CHANCE, parts), tokens[PIXELS], PIXELS, parts)
    return found, chosen


def _plan(config: ProbeConfig, tokens: Tokens) -> Iterator[tuple[str, str]]:
    """Pairs of a reader and a set of features."""
    stages = [name for name in tokens.sets if name.startswith("stage_")]
    names = [each for name in config.features for each in (stages if name == "stages" else [name])]
    for kind in config.kinds:
        if kind == "attentive":
            yield kind, "tokens"
        else:
            yield from ((kind, name) for name in names if name != "tokens" or kind == "linear")


def reader_of(
    config: ProbeConfig, kind: str, parts: Parts, on_choice: Callable[[tuple[float, float]], object] | None = None
) -> Callable[..., Outputs]:
    """The reader of a kind, or `chance`, with its settings, for `read_outputs`. on_choice: of `attentive_probe`."""
    if kind == CHANCE:
        return partial(read_chance, num_classes=parts.num_classes)
    how: dict[str, Any] = {"num_folds": config.num_folds, "num_classes": parts.num_classes}
    if kind == "attentive":
        seeds = range(config.seed, config.seed + config.num_seeds)
        how |= {"rates": config.attentive_rates, "decays": config.attentive_decays, "epochs": config.attentive_epochs}
        how |= {"seeds": tuple(seeds), "device": pick_device(config.device), "on_choice": on_choice}
        return partial(attentive_probe, **how)
    how["seed"] = config.seed
    return partial(linear_probe, **how) if kind == "linear" else partial(knn_probe, neighbours=config.neighbours, **how)


def _drawn_units(parts: Parts, rows: NDArray[np.int64]) -> NDArray[Any]:
    """What the bootstrap draws: the people of the rows, or the videos where there is a single person."""
    people = parts.people[rows]
    return people if len(set(people)) > 1 else rows.astype(str).astype(object)


def read_chance(
    x: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], queries: NDArray[Any], *, num_classes: int | None = None
) -> Outputs:
    """A reader that looks at no features: always the most frequent class, or always the same value."""
    if y.ndim == 2:
        return np.zeros((len(queries), y.shape[1]))
    counts = np.bincount(y, minlength=num_classes or 0)
    return np.eye(len(counts))[np.full(len(queries), counts.argmax())]


def _table(scores: Mapping[Row, Mapping[str, SubjectScore]], config: ProbeConfig) -> pd.DataFrame:
    """The table of `Probed`."""
    lines = []
    how = {"num_resamples": config.num_resamples, "seed": config.seed}
    for row, by_key in scores.items():
        found, nothing = _intervals(by_key, None, **how), Interval(math.nan, math.nan, math.nan)
        reference = scores.get(row._replace(encoder=UNTRAINED)) if row.encoder == TRAINED else None
        compared = _intervals(by_key, reference, **how) if reference is not None else {}
        lines += [(*row, key, *found[key], *compared.get(key, nothing)) for key in by_key]
    columns = [*Row._fields, "score", *Interval._fields, "difference", "difference_low", "difference_high"]
    return pd.DataFrame(lines, columns=columns)


def _intervals(
    scores: Mapping[str, SubjectScore], reference: Mapping[str, SubjectScore] | None, **how: int
) -> dict[str, Interval]:
    """Intervals; of a single video there are none, so the bounds are NaN."""
    if len(next(iter(scores.values())).sums) > 1:
        return intervals(scores, reference, **how)
    values = {key: score.value - (0 if reference is None else reference[key].value) for key, score in scores.items()}
    return {key: Interval(value, math.nan, math.nan) for key, value in values.items()}


def _summary(table: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    """The table as text: for each row the scores with their intervals, and the differences to the untrained encoder."""
    there = set(table["score"])
    keys = [key for key in MAIN[task_of(parts)] if key in there]
    rows = []
    for which, lines in table.groupby(list(Row._fields), sort=False):
        cells = {"reader, features": Row(*map(str, which)).name}
        for _, line in lines[lines["score"].isin(keys)].set_index("score").loc[keys].reset_index().iterrows():
            key = line["score"]
            cells[metric_heading(key)] = interval_text(key, line["value"], line["low"], line["high"])
            if key in COMPARED:
                difference = (line["difference"], line["difference_low"], line["difference_high"])
                cells[f"{metric_name(key)} − untrained"] = interval_text(key, *difference, signed=True)
        rows.append(cells)
    return pd.DataFrame(rows)


def _caption(
    model: str,
    config: ProbeConfig,
    parts: Parts,
    scores: Mapping[Row, Mapping[str, SubjectScore]],
    chosen: Mapping[str, Sequence[tuple[float, float]]],
    num_unreadable: int,
) -> str:
    """What was fitted and scored on whom, and what the intervals are."""
    fit, test = (np.unique(np.concatenate(rows)) for rows in zip(*parts.splits, strict=True))
    scored = parts.described(test)
    if config.cross_validates:
        data = f"{len(parts.splits)}-fold cross-validation over {scored}: each is scored by readers fitted on others"
    else:
        data = f"readers fitted on {parts.described(fit)}, scored on {scored}"
    if not parts.known:
        data += "; people are not known, so the same person may be in both parts"
    if num_unreadable:
        data += f"; INCOMPLETE: {counted(num_unreadable, 'video')} could not be read"
    views = f"outputs averaged over {config.num_segments} × {config.num_crops} views of each video"
    views += ", at every frame" if parts.frame_level else ""
    number = len(next(iter(next(iter(scores.values())).values())).sums)
    drawn = parts.units(test) if len(set(parts.people[test])) > 1 else "videos of the only person"
    text = f"Probes of {model} on {parts.title}: {data}. {views[0].upper()}{views[1:]}."
    if number > 1:
        text += f" In brackets 95% intervals: {config.num_resamples} bootstrap samples of the {number} {drawn}."
    if 1 < number < FEW:
        text += f" Warning: intervals from so few are not to be trusted; at least {FEW} people are needed."
    if parts.manifest.dimensions is not None:
        what = "means over " + ", ".join(parts.names) if len(parts.names) > 1 else f"of {parts.names[0]}"
        text += f" Scores are {what}."
    if "attentive" in config.kinds:
        text += f" {_about_attentive(config, chosen)}"
    text += " Untrained: the same encoder with random weights (seed 0), whose differences are paired."
    if any("within_people" in key for by_key in scores.values() for key in by_key):
        text += " Within people: each person's mean is subtracted from values and outputs."
    return text


def _about_attentive(config: ProbeConfig, chosen: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """How long the attentive readers were trained, and with which of the learning rates and weight decays that were tried."""
    seeds = f"means of {config.num_seeds} readers, " if config.num_seeds > 1 else ""
    epochs = config.attentive_epochs
    length = counted(epochs, "epoch") if epochs else f"at least {EPOCHS} epochs and {MIN_STEPS:,} steps"
    if epochs and epochs < EPOCHS:
        length += f" (fewer than {EPOCHS}, so scores may be too low)"
    tried = " / ".join(
        ", ".join(f"{each:g}" for each in given) for given in (config.attentive_rates, config.attentive_decays)
    )
    several = len(config.attentive_rates) * len(config.attentive_decays) > 1
    best = []
    for which, pairs in chosen.items():
        times = Counter(f"{rate:g} / {decay:g}" for rate, decay in pairs)
        folds = len(pairs) > 1
        best.append(
            f"{which} " + ", ".join(f"{pair} in {counted(n, 'fold')}" if folds else pair for pair, n in times.items())
        )
    settings = f"chosen from {tried}: {'; '.join(best)}" if several else tried
    return f"Attentive: {seeds}trained for {length}; learning rate / weight decay {settings}."


def task_of(parts: Parts) -> SupervisedTask:
    return "classification" if parts.manifest.dimensions is None else "regression"


def _averaged(
    index: NDArray[np.int64], outputs: Outputs, weights: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], Outputs]:
    """Average outputs (runs, V, K) with the same index (V,): the N numbers, ascending, and (runs, N, K)."""
    runs, _, num_outputs = outputs.shape
    flat = outputs.transpose(1, 0, 2).reshape(len(index), -1)
    numbers, means = average_views(index, flat, weights)
    return numbers, means.reshape(-1, runs, num_outputs).transpose(1, 0, 2)


def _step_targets(values: NDArray[np.float32], num_steps: int) -> tuple[Outputs, NDArray[np.bool_]]:
    """Means (V, T', K) of the annotated frames of each time step of values (V, T, K), and which steps (V, T') have any."""
    steps = values.reshape(len(values), num_steps, -1, values.shape[2])
    annotated = np.asarray(np.isfinite(steps).all(axis=3))
    totals = np.where(annotated[..., None], steps, 0).sum(axis=2, dtype=np.float64)
    counts = annotated.sum(axis=2)
    return totals / np.maximum(counts, 1)[..., None], counts > 0


def _interpolated(steps: Outputs, num_frames: int) -> Outputs:
    """(runs, V, T', K) at time steps -> (runs, V, T, K) at frames."""
    frames = steps_to_frames(torch.from_numpy(steps.reshape(-1, *steps.shape[2:])), num_frames)
    return frames.reshape(*steps.shape[:2], num_frames, steps.shape[3]).numpy()
