"""`svfap probe`: what simple readers find in the frozen features of an encoder, beside an untrained one, pixels and chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import say, track
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.data.prepared import say_crops
from svfap.data.rates import FRAMES_NOTE, Clock, look_at_rates
from svfap.device import pick_device
from svfap.evaluation.confidence import SubjectScore
from svfap.evaluation.metrics import write_metrics
from svfap.evaluation.predictions import UNREADABLE_FILE, write_csv
from svfap.files import make_folder, only_writer
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.probe.attentive import attentive_probe
from svfap.probe.config import PROBE_FILE, ProbeConfig
from svfap.probe.parts import Parts, read_parts
from svfap.probe.readers import knn_probe, linear_probe
from svfap.probe.reading import read_chance, read_scores, readable
from svfap.probe.samples import Values
from svfap.probe.table import (
    CHANCE,
    PIXELS,
    TRAINED,
    UNTRAINED,
    Row,
    bars_of,
    caption_of,
    main_key,
    summary_of,
    table_of,
)
from svfap.probe.tokens import FeatureCache, Tokens, data_digest, encode, encoder_digest, read_pixels, untrained_encoder
from svfap.shipped import is_checkpoint
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import score_intervals
from svfap.view.tables import write_table
from svfap.weights.folder import fingerprint, load_model

HOW_IT_RUNS = ("device", "precision", "batch_size", "num_workers", "out")  # settings that are no part of the question


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
            "weights": fingerprint(loaded), "data": parts.title, "task": parts.task, "names": parts.names,
            "settings": asdict(config),
        }  # fmt: skip
        _say_what_is_replaced(out / PROBE_FILE, question)
        encoders = {TRAINED: loaded.encoder, UNTRAINED: untrained_encoder(loaded.config)}
        tokens = features_of(config, encoders, loaded.config, clips, out / "features")
        unreadable = dict(tokens[TRAINED].unreadable)
        parts_read = readable(parts, tokens[TRAINED])
        scores, chosen = _scores(config, tokens, parts_read)
        table = table_of(scores, config)
        title = "an encoder" if isinstance(model, Model) else str(model)
        caption = caption_of(title, config, parts_read, scores, chosen, len(unreadable))
        summary = summary_of(table, parts)
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
) -> Callable[..., Values]:
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
