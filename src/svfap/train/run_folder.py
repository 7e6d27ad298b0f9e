"""The folder of a run: checkpoints that are complete or absent, the log, and the state from which a run is resumed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from svfap.console import counted, say
from svfap.errors import UserError
from svfap.evaluation.config import DATA_FILE, FAILURE_FILE, LOG_FILE, RUN_CONFIG, STATE_FILE
from svfap.files import make_folder, recover_folder, replacing_folder, write_atomically
from svfap.formats import read_settings_file, stamped, upgrade
from svfap.settings import check_same_settings
from svfap.train.config import TrainConfig
from svfap.train.processes import STALE_S, is_lost_process, one_run
from svfap.train.run_data import Part, RunData, read_run_data

if TYPE_CHECKING:
    from accelerate import Accelerator

    from svfap.model.base import Model
    from svfap.model.config import ModelConfig
    from svfap.train.saving import BesideTraining

# Settings that may change when a run is resumed, since they do not change its result.
FREE_SETTINGS = (
    *("num_workers", "cache_gb", "save_every_steps", "max_unreadable", "out", "probe_every", "probe_dataset"),
    *("checkpoint_activations", "track"),
)
DATA_SETTINGS = ("dataset", "manifest", "val_manifest", "root")  # may change where the rows are known to be the same
NOT_STORED = ("resume", "parallel")  # of one call, not of the run
FULL_BYTES = 2**20  # a disk with less free space is full


@dataclass
class TrainState:
    """Progress of a run: optimiser steps done, best validation score and its epoch (from 1), unreadable videos with reasons.

    num_processes: of the run that saved it; None where an earlier version did.
    """

    step: int = 0
    best_score: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    num_processes: int | None = None


class RunFolder:
    """`config.yaml`, `data.json`, `log.jsonl`, `unreadable.csv`, `last/`, `best/` and `metrics.json` of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.out)
        self.last, self.best = self.path / "last", self.path / "best"
        self.config_file, self._data_file = self.path / RUN_CONFIG, self.path / DATA_FILE
        self._tracking_file, self._failure_file = self.path / "tracking.json", self.path / FAILURE_FILE
        self._metrics_file, self._log_file = self.path / "metrics.json", self.path / LOG_FILE
        self._config = config
        defaults = type(config)(out=config.out)
        # Paths as text, tuples as lists.
        settings, self._defaults = (json.loads(json.dumps(asdict(c), default=str)) for c in (config, defaults))
        self.settings = {name: value for name, value in settings.items() if name not in NOT_STORED}

    def resumes(self) -> bool:
        """Whether the run goes on from a checkpoint, so that weights to begin with are not needed."""
        places = (self.last, self.last.with_name(f"{self.last.name}.old"))  # see `recover_folder`
        return bool(self._config.resume) and any((place / STATE_FILE).exists() for place in places)

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder and keep other runs out of it; of torchrun's processes the first one does so. Raises `UserError`."""
        make_folder(self.path)
        return one_run(self.path)

    def check(self) -> None:
        """Raise `UserError` if the folder contains a run and resume is off, or a run with other settings."""
        if not self._begun():
            return
        if not self._config.resume:
            raise UserError(f"out={self.path}: holds a run already; --resume continues it, or choose another folder")
        if self.config_file.exists():
            # A setting that is newer than the run had its default.
            defaults = {name: self._defaults[name] for name in self.settings}
            before = {**defaults, **read_settings_file(self.config_file, self.settings)}
            fix = "resume it with those, or choose another folder"
            if (epochs := before.get("epochs")) != self._config.epochs:
                schedule = f"a schedule of {counted(epochs or 0, 'epoch')}"
                fix += f". Its learning rates are {schedule}, which cannot be made longer or shorter"
                fix += f"; to train on from its weights, start a new run with --init {self.path}"
            free = FREE_SETTINGS + (DATA_SETTINGS if self._data_file.exists() else ())
            check_same_settings(f"out={self.path}", before, self.settings, fix, free)

    def open(self, data: RunData) -> None:
        """Make the folder, or put a resumed one in order.

        Raises `UserError` as `check` does, if a run in the folder has begun with other data, and if it cannot be written.
        """
        make_folder(self.path)
        for folder in (self.last, self.best):
            recover_folder(folder)
        self.check()
        if self._begun():
            self._check_data(data)
        self._failure_file.unlink(missing_ok=True)
        content = yaml.safe_dump(stamped("training settings", self.settings), sort_keys=False)
        write_atomically(self.config_file, content)
        data.write(self._data_file)

    def _begun(self) -> bool:
        return self._log_file.exists() or self.last.exists()

    def _check_data(self, data: RunData) -> None:
        before = read_run_data(self._data_file) if self._data_file.exists() else self._data_of_model(data)
        if before is None:
            return
        if differences := data.differences(before):
            new = f", from its weights with --init {self.path}"
            raise UserError(
                f"out={self.path}: began with other data ({'; '.join(differences)}); resume it with the same data, or start "
                f"a new run in another folder{new}"
            )

    def _data_of_model(self, data: RunData) -> RunData | None:
        """What the model of the last checkpoint says of its data; for runs without `data.json`, of version 0.2 and before."""
        from svfap.model.config import CONFIG_FILE, ModelConfig

        say(f"{self.path}: an earlier version of svfap began this run and did not note its videos; that they are the same "
            "is not checked")  # fmt: skip
        if not (self.last / CONFIG_FILE).is_file():
            return None
        model = ModelConfig.read(self.last / CONFIG_FILE)
        rows = model.provenance.get("num_videos", data.training.rows)
        return RunData(tuple(model.label_names), Part(rows), data.validation)

    def read_state(self) -> TrainState | None:
        """Progress at the last complete checkpoint, or None."""
        file = self.last / STATE_FILE
        if not file.exists():
            return None
        return TrainState(
            **upgrade("training state", json.loads(file.read_text()), file, TrainState.__dataclass_fields__)
        )

    def state_of_all(self, accelerator: Accelerator) -> TrainState | None:
        """As `read_state`, once all processes of the run see what the first one sees.

        Says so if the run had another number of processes. Raises `UserError` if this process keeps seeing another checkpoint.
        """
        state, processes = self.read_state(), accelerator.num_processes
        if processes > 1:
            from accelerate.utils import broadcast_object_list

            first = broadcast_object_list([state.step if state else 0])[0]
            deadline = time.monotonic() + STALE_S
            while (mine := self._step_seen(state)) != first:
                if time.monotonic() >= deadline:
                    seen = f"sees step {mine}" if mine else "sees none"
                    raise UserError(
                        f"out={self.path}: process {accelerator.process_index} {seen} there, and the first process step {first}; "
                        "all machines must share this folder"
                    )
                time.sleep(0.5)
                state = self.read_state()
        if state is not None and state.num_processes not in (None, processes):
            say(f"the checkpoint is of {state.num_processes} process(es), and this run has {processes}: each step has the same "
                "videos and learning rate, but other random draws, so losses differ from those of an unbroken run")  # fmt: skip
        return state

    def _step_seen(self, state: TrainState | None) -> int | None:
        """The step of the checkpoint, 0 without one; None where the first process has opened another folder than this."""
        if state is not None:
            return state.step
        return 0 if self.config_file.exists() else None

    def save_last(
        self, state: TrainState, model: ModelConfig, accelerator: Accelerator, writes: BesideTraining,
        best: Model | None = None,
    ) -> None:  # fmt: skip
        """Begin to write last/: model, optimiser and progress as they are now, of which copies on the host are made.

        best: a copy of a new best model, for best/, which is written before. `writes` raises `UserError` if that fails.
        """
        from svfap.train.saving import copy_state

        writes.wait()  # before there are more copies
        state.num_processes = accelerator.num_processes
        progress = json.dumps(stamped("training state", asdict(state)), indent=2)
        write_state = copy_state(accelerator)

        def write() -> None:
            if best is not None:
                with self.writing(self.best), replacing_folder(self.best) as fresh:
                    best.save_pretrained(fresh)
            with self.writing(self.last), replacing_folder(self.last) as fresh:
                write_state(fresh)
                model.write(fresh)
                (fresh / STATE_FILE).write_text(progress)

        writes.start(write)

    def load_last(self, accelerator: Accelerator) -> None:
        """Read model, optimiser and random states from last/. Raises `UserError` if they do not fit the model."""
        try:
            accelerator.load_state(str(self.last))
        except Exception as error:  # torch, safetensors and pickle raise many types for broken or unfitting files
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            reason = next((line for line in lines if "size mismatch" in line), lines[0])
            fix = "start a new run in another folder"
            raise UserError(f"{self.last}: this checkpoint does not fit the run ({reason}); {fix}") from None

    @contextmanager
    def writing(self, file: Path) -> Iterator[None]:
        """Raise `UserError` if the block cannot write `file`, and name the checkpoint from which the run can continue."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch.save
            if is_lost_process(error):
                raise
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            if shutil.disk_usage(self.path).free < FULL_BYTES:
                reason = "no space left on the disk"
            kept = "there is no checkpoint yet"
            if (state := self.read_state()) is not None:
                kept = f"the checkpoint of step {state.step} is kept in {self.last}, --resume continues from it"
            raise UserError(f"{file}: cannot be written ({reason}); {kept}") from None

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line, with `kind`, `epoch` (from 1) and `step` (from 1); numbers are finite. Raises `UserError`."""
        with self.writing(self._log_file), self._log_file.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def forget_log_after(self, step: int) -> None:
        """Drop the log lines of steps after the last checkpoint, which will be done again."""
        if self._log_file.exists():
            records = list(filter(None, map(_record, self._log_file.read_text().splitlines())))
            # 0 in logs of version 0.2 and before; a probe before the first step belongs to epoch 0 in all.
            first = min((record["epoch"] for record in records if record.get("kind") != "probe"), default=1)
            kept = [{**record, "epoch": record["epoch"] + 1 - first} for record in records if record["step"] <= step]
            write_atomically(self._log_file, "".join(json.dumps(record) + "\n" for record in kept))

    def note_failure(self, error: UserError) -> None:
        """Keep the reason for which the training ends, until it is resumed."""
        with suppress(UserError):  # such as on a full disk, where the first error counts
            write_atomically(self._failure_file, f"{error}\n")

    def read_tracked(self) -> dict[str, dict[str, Any]]:
        """Tracker -> by what it finds the run again; empty where none was used. Raises `UserError`."""
        if not self._tracking_file.exists():
            return {}
        try:
            return upgrade("tracked runs", json.loads(self._tracking_file.read_text()), self._tracking_file)
        except ValueError as error:
            raise UserError(
                f"{self._tracking_file}: is not JSON ({error}); without it trackers begin a new run"
            ) from None

    def write_tracked(self, tracked: dict[str, dict[str, Any]]) -> None:
        """Write what `read_tracked` reads. Raises `UserError`."""
        write_atomically(self._tracking_file, json.dumps(stamped("tracked runs", tracked), indent=2) + "\n")

    def write_unreadable(self, unreadable: dict[str, str]) -> Path:
        """List the videos that could not be read, with the reason. Raises `UserError`."""
        import pandas as pd

        file = self.path / "unreadable.csv"
        with self.writing(file):
            pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]).to_csv(file, index=False)
        return file

    def read_metrics(self) -> dict[str, Any] | None:
        """The content of `metrics.json`, or None."""
        file = self._metrics_file
        return upgrade("training metrics", json.loads(file.read_text()), file) if file.exists() else None

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`. Raises `UserError`."""
        write_atomically(self._metrics_file, json.dumps(stamped("training metrics", metrics), indent=2))


def _record(line: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(line)
        return record
    except ValueError:  # an incomplete line, left by a run that was killed
        return None
