"""The folder of a run: checkpoints that are complete or absent, the log, and the state from which a run is resumed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from svfap.errors import UserError
from svfap.files import make_folder, recover_folder, replacing_folder, write_atomically
from svfap.formats import stamped
from svfap.settings import check_same_settings
from svfap.train.config import TrainConfig, read_settings_file

if TYPE_CHECKING:
    from accelerate import Accelerator

    from svfap.model.config import ModelConfig

# Settings that may change when a run is resumed, since they do not change its result.
FREE_SETTINGS = ("num_workers", "save_every_steps", "max_unreadable", "out")
NOT_STORED = ("resume", "parallel")  # of one call, not of the run


@dataclass
class TrainState:
    """Progress of a run: optimiser steps done, the best validation score so far and its epoch, unreadable videos with reasons."""

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
        self._config_file = self.path / "config.yaml"
        self._resume = config.resume
        settings = json.loads(json.dumps(asdict(config), default=str))  # paths as text, tuples as lists
        self._settings = {name: value for name, value in settings.items() if name not in NOT_STORED}

    def check(self) -> None:
        """Raise `UserError` if the folder contains a run and resume is off, or a run with other settings."""
        if not ((self.path / "log.jsonl").exists() or self.last.exists()):
            return
        if not self._resume:
            raise UserError(f"out={self.path}: holds a run already; --resume continues it, or choose another folder")
        if self._config_file.exists():
            before = read_settings_file(self._config_file, self._settings)
            fix = "resume it with those, or choose another folder"
            check_same_settings(f"out={self.path}", before, self._settings, fix, FREE_SETTINGS)

    def open(self) -> None:
        """Make the folder, or put a resumed one in order. Raises `UserError` if it cannot be written."""
        make_folder(self.path)
        for folder in (self.last, self.best):
            recover_folder(folder)
        content = yaml.safe_dump(stamped("training settings", self._settings), sort_keys=False)
        write_atomically(self._config_file, content)

    def read_state(self) -> TrainState | None:
        """Progress at the last complete checkpoint, or None."""
        file = self.last / "state.json"
        return TrainState(**json.loads(file.read_text())) if file.exists() else None

    def save_last(self, state: TrainState, model: ModelConfig, accelerator: Accelerator) -> None:
        """Write last/: model, optimiser and progress. Called by every process."""
        accelerator.wait_for_everyone()
        with replacing_folder(self.last, accelerator.is_main_process) as fresh:
            accelerator.wait_for_everyone()
            accelerator.save_state(str(fresh))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                model.write(fresh)
                (fresh / "state.json").write_text(json.dumps(asdict(state), indent=2))
        accelerator.wait_for_everyone()

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget_log_after(self, step: int) -> None:
        """Drop the log lines of steps after the last checkpoint, which will be done again."""
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
    except ValueError:  # an incomplete line, left by a run that was killed
        return math.inf
