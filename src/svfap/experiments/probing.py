"""Readings of a frozen encoder for experiments: predictions for the test videos by the readers of `svfap probe`."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svfap.console import say
from svfap.data.split import take_fraction
from svfap.errors import UserError
from svfap.evaluation.predictions import predictions_table, write_csv
from svfap.experiments.config import PROBES
from svfap.files import make_folder, only_writer, write_atomically
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.probe.config import ProbeConfig
from svfap.probe.parts import Parts, read_parts
from svfap.probe.probe import clips_of, features_of, reader_of
from svfap.probe.reading import read_outputs, readable
from svfap.probe.table import CHANCE, PIXELS, TRAINED
from svfap.probe.tokens import Tokens, encoder_digest, untrained_encoder
from svfap.settings import check_same_settings
from svfap.shipped import is_checkpoint
from svfap.signals import STOP_SIGNALS, interrupt, signal_handlers
from svfap.train.run_data import part_of
from svfap.weights.folder import load_model

SETTINGS_FILE, FEATURES_FOLDER = "settings.json", "features"
LINEAR, LINEAR_TOKENS, ATTENTIVE = PROBES
TOKENS = "tokens"
LINEAR_FEATURES = {LINEAR: ("last", "fused"), LINEAR_TOKENS: (TOKENS,)}  # what the readers that have no seed read


@dataclass(frozen=True)
class ProbeRun:
    """The readings of one frozen encoder, or of the pixels, in the folder `out`.

    config: the data, the readers, and the attentive one's first seed and number of seeds. linear: the features that the
    reader `linear` of this row gets, `last` or `fused`, of those in the settings; it reads all of them, for the rows that
    share this run. `linear_tokens` gets all tokens, if they are among them. shape: of the encoder that is not trained, or of
    the clips whose pixels are read. weights: of the encoder; None: not trained, with the weights that pre-training starts
    from with `seed`. pixels: no encoder; the linear reader and chance.
    fraction: of the videos that fit the readers, drawn by `seed`. num_workers: decoding processes.
    """

    out: Path
    config: ProbeConfig
    shape: ModelConfig
    weights: str | None = None
    seed: int = 0
    linear: str = "last"
    pixels: bool = False
    fraction: float = 1.0
    num_workers: int | None = None
    epochs: int = 1  # what a display of progress counts

    def files(self, reader: str) -> list[Path]:
        """The predictions of a reader, one of `PROBES` or `chance`: a file for each seed, as of `svfap evaluate`."""
        if reader == ATTENTIVE:
            seeds = range(self.config.seed, self.config.seed + self.config.num_seeds)
            return [self.out / f"{reader}-seed{seed}.csv" for seed in seeds]
        if reader == LINEAR_TOKENS:
            return [self._linear(TOKENS)]
        return [
            self._linear(PIXELS if self.pixels else self.linear) if reader == LINEAR else self.out / f"{reader}.csv"
        ]

    @property
    def results(self) -> dict[tuple[str, str], list[Path]]:
        """The files by reader and features."""
        if self.pixels:
            return {(LINEAR, PIXELS): [self._linear(PIXELS)], (CHANCE, PIXELS): self.files(CHANCE)}
        linear = {(LINEAR, name): [self._linear(name)] for name in self.config.features}
        found = {**linear, (ATTENTIVE, TOKENS): self.files(ATTENTIVE)}
        return {key: files for key, files in found.items() if key[0] in self.config.kinds}

    @property
    def missing(self) -> dict[tuple[str, str], list[Path]]:
        """Those of the results of which a file is not there."""
        return {key: files for key, files in self.results.items() if not all(file.is_file() for file in files)}

    @property
    def is_done(self) -> bool:
        """Whether all predictions are there."""
        return not self.missing

    def _linear(self, features: str) -> Path:
        return self.out / f"{LINEAR}-{features}.csv"


def probe_encoder(run: ProbeRun) -> int:
    """Read the features once and fit the readers; nothing is done again that is there. Returns 0.

    The features are kept in `out`/features until all predictions are there. Raises `UserError` for a folder that belongs to
    other videos, weights or settings (naming the file that says so), and for test videos that cannot be read.
    """
    config = replace(run.config, num_workers=run.num_workers or 0)
    parts = read_parts(config)
    if run.weights is not None:
        model = load_model(run.weights, "features" if is_checkpoint(run.weights) else None)
        encoder, shape = model.encoder, model.config
    else:
        encoder, shape = untrained_encoder(run.shape, run.seed), run.shape
    make_folder(run.out)
    with signal_handlers(interrupt, *STOP_SIGNALS), only_writer(run.out / SETTINGS_FILE):
        _check_settings(run, parts, None if run.pixels else encoder, shape)
        if run.is_done:
            return 0
        parts.manifest.require_files()
        if shape.frame_rate is None:  # as fine-tuning takes them then
            config = replace(config, fps="own")
        clips = clips_of(config, shape, parts)
        encoders = {} if run.pixels else {TRAINED: encoder}
        tokens = features_of(config, encoders, shape, clips, run.out / FEATURES_FOLDER)
        say(f"fitting the readers: {run.out}")
        tokens_read = tokens[PIXELS if run.pixels else TRAINED]
        fitted, keys = _fitted(run, tokens_read, parts), [sample.key for sample in parts.manifest]
        for (reader, features), files in run.missing.items():
            # The linear reader has no seed: its folds are the same for all.
            settings = config if reader == ATTENTIVE else replace(config, seed=0)
            how = reader_of(settings, reader, fitted, _say_choice)
            rows, outputs, truth = read_outputs(how, tokens_read, features, fitted, flat=reader != ATTENTIVE)
            for file, each in zip(files, outputs, strict=True):
                paths = [keys[row] for row in rows]
                write_csv(file, predictions_table(paths, each, parts.names, truth, parts.task))
        shutil.rmtree(run.out / FEATURES_FOLDER)
    return 0


def _say_choice(choice: tuple[float, float]) -> None:
    say("attentive reader: learning rate {:g}, weight decay {:g}".format(*choice))


def _fitted(run: ProbeRun, tokens: Tokens, parts: Parts) -> Parts:
    """The parts with the videos that fit the readers. Raises `UserError` for test videos that could not be read."""
    ((fit, test),) = readable(parts, tokens).splits
    if missing := sorted(set(parts.splits[0][1]) - set(test)):
        sample = parts.manifest[int(missing[0])]
        reason = tokens.unreadable.get(sample.key, "no reason is known")
        raise UserError(
            f"{sample.path}: {len(missing)} test videos could not be read, of which this is the first ({reason}); repair "
            f"them, remove {run.out / FEATURES_FOLDER}, and run again"
        )
    if run.fraction < 1:
        fit = fit[_taken(parts, fit, run.fraction, run.seed)]
    return parts.with_splits([(fit, test)])


def _taken(parts: Parts, rows: Any, fraction: float, seed: int) -> Any:
    """Positions in `rows` of the fraction of the videos that fine-tuning would take of them."""
    numbered = parts.manifest.subset(rows)
    numbered.table["position"] = np.arange(len(rows))
    return take_fraction(numbered, fraction, seed).table["position"].to_numpy()


def _check_settings(run: ProbeRun, parts: Parts, encoder: TPSBT | None, shape: ModelConfig) -> None:
    """Write what the readings depend on, or raise `UserError` if the folder belongs to something else."""
    config, videos = run.config, part_of(parts.manifest, parts.frame_level)
    sampled = (shape.num_frames, shape.sampling_stride, shape.img_size, shape.frame_fit, shape.frame_rate)
    now = {
        "videos": hashlib.sha256((videos.digests or "").encode()).hexdigest()[:16], "num_videos": videos.rows,
        "names": list(parts.names), "sampled": list(sampled), "encoder": encoder and encoder_digest(encoder),
        "fraction": run.fraction, "seed": config.seed,
        "num_segments": config.num_segments, "num_crops": config.num_crops, "num_folds": config.num_folds,
        "attentive_epochs": config.attentive_epochs, "attentive_rates": config.attentive_rates,
        "attentive_decays": config.attentive_decays,
    }  # fmt: skip
    file = run.out / SETTINGS_FILE
    if file.is_file():
        try:
            before = json.loads(file.read_text())
        except ValueError:
            raise UserError(f"{file}: is damaged; remove the folder {run.out} and run again") from None
        check_same_settings(file, before, now, f"remove the folder {run.out}, or choose another `out`")
    else:
        write_atomically(file, json.dumps(now, indent=2) + "\n")
