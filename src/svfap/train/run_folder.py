"""A run's folder: checkpoints that are whole or absent, the log, and what a resumed run needs to know."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from svfap.errors import UserError
from svfap.files import make_folder, recover_folder, replacing_folder, write_atomically
from svfap.formats import stamped
from svfap.train.config import TrainConfig, read_settings_file

# Settings that may change when a run is resumed, since they do not change its result.
FREE_SETTINGS = ("num_workers", "save_every_steps", "max_unreadable", "out")


@dataclass
class TrainState:
    """Progress of a run: `step` optimiser steps done; the best validation score so far and its epoch."""

    step: int = 0
    best_score: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)


class RunFolder:
    """`config.yaml`, `log.jsonl`, `unreadable.csv`, `last/`, `best/` and `metrics.json` of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.out)
        self.last, self.best = self.path / "last", self.path / "best"
        self._settings = {k: _plain(v) for k, v in asdict(config).items()}

    def open(self, resume: bool) -> None:
        """Make the folder, or check that it can be resumed. Raises `UserError` where another run lies there."""
        make_folder(self.path)
        for folder in (self.last, self.best):
            recover_folder(folder)
        config_file = self.path / "config.yaml"
        begun = (self.path / "log.jsonl").exists() or self.last.exists()
        if begun and not resume:
            raise UserError(f"out={self.path}: holds a run already; --resume continues it, or choose another folder")
        if begun and config_file.exists():
            before = read_settings_file(config_file, self._settings)
            now = self._settings
            changed = [k for k in now if k not in FREE_SETTINGS and before.get(k) != now[k]]
            if changed:
                listed = ", ".join(f"{k}: {before.get(k)} then, {now[k]} now" for k in changed)
                raise UserError(f"out={self.path}: cannot resume with other settings ({listed})")
        write_atomically(config_file, yaml.safe_dump(stamped("training settings", self._settings), sort_keys=False))

    def read_state(self) -> TrainState | None:
        """Progress of the last complete checkpoint, or None."""
        file = self.last / "state.json"
        return TrainState(**json.loads(file.read_text())) if file.exists() else None

    def save_last(
        self, state: TrainState, save_training: Callable[[Path], Any], save_config: Callable[[Path], Any]
    ) -> None:
        """Write last/: the model, and what the optimiser needs to go on. Called by every process."""
        from accelerate import PartialState

        process = PartialState()
        process.wait_for_everyone()
        with replacing_folder(self.last, process.is_main_process) as fresh:
            process.wait_for_everyone()
            save_training(fresh)
            process.wait_for_everyone()
            if process.is_main_process:
                save_config(fresh)
                (fresh / "state.json").write_text(json.dumps(asdict(state), indent=2))
        process.wait_for_everyone()

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget_log_after(self, step: int) -> None:
        """Drop log lines of steps that will be done again."""
        file = self.path / "log.jsonl"
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if _step(line) <= step]
            write_atomically(file, "".join(line + "\n" for line in lines))

    def write_unreadable(self, unreadable: dict[str, str]) -> Path:
        """List the videos that could not be read, with the reason."""
        import pandas as pd

        file = self.path / "unreadable.csv"
        pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]).to_csv(file, index=False)
        return file


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # half a line, left by a run that was killed
        return math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
