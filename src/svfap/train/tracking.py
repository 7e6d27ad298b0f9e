"""Where a run is shown beside its log: TensorBoard, Weights & Biases and MLflow, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from svfap.console import say
from svfap.errors import UserError, first_line
from svfap.settings import flat_settings
from svfap.train.run_folder import RunFolder

Picture = NDArray[np.uint8]  # (height, width, 3), RGB
Outcome = Literal["finished", "interrupted", "failed"]
T = TypeVar("T")

RETRY_S = 30.0  # after which what could not be sent is sent again
CLOSE_S = 300.0  # for what is left to send when a run ends
# Of the services' clients, where the user has set nothing else: a service that does not answer is known before training begins,
# and later it is asked again every `RETRY_S`.
PATIENCE = {
    "WANDB_INIT_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
}


class Record(NamedTuple):
    """Numbers and pictures, by name, after an optimiser step."""

    step: int
    numbers: Mapping[str, float]
    pictures: Mapping[str, Picture]


def require_trackers(names: list[str]) -> None:
    """Raise `UserError` naming the extra of a tracker that is not installed; nothing is imported."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of this name is no package
            raise UserError(f"track={name}: needs the package {name}; install it with pip install 'svfap[{name}]'")


class Tracking:
    """The trackers of a run; only its main process makes them.

    settings: of the run, resolved. name: how services list the run. step: the last one that is not done again. Raises
    `UserError` for a tracker that cannot be started: a service that cannot be reached, or that knows no such user or run.
    """

    def __init__(self, folder: RunFolder, names: list[str], project: str | None, step: int) -> None:
        require_trackers(names)
        self._folder, self._events, self._services = folder, None, list[_Service]()
        if "tensorboard" in names:
            self._events = _Events(folder, step)
        known = folder.read_tracked()
        for name in names:
            if name in SERVICES:
                service = _Service(SERVICES[name](folder, project, known.get(name, {})))
                self._services.append(service)
                try:
                    known[name] = service.start()
                except BaseException:
                    self.close("failed")
                    raise
                folder.write_tracked(known)  # at once, so that a resumed run goes on there

    @property
    def shows_pictures(self) -> bool:
        """Whether there is a tracker to make pictures for."""
        return self._events is not None or bool(self._services)

    def log(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Picture] | None = None) -> None:
        """Log finite numbers, and pictures, of a step. Services get them in the background.

        Raises `UserError` if a file of TensorBoard cannot be written.
        """
        record = Record(step, numbers, pictures or {})
        if self._events is not None:
            self._events.log(record)
        for service in self._services:
            service.log(record)

    def close(self, outcome: Outcome) -> None:
        """Send what is left and end the run of each service; what goes wrong is said. Raises `UserError` as `log` does."""
        for service in self._services:
            service.close(outcome)
        if self._events is not None:
            with suppress(UserError) if outcome == "failed" else nullcontext():
                self._events.close()


class _Events:
    """TensorBoard's files in `tensorboard/`, beside the checkpoints, so that a full disk ends the run as theirs does."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from accelerate.tracking import TensorBoardTracker

        self._folder, self._path = folder, folder.path / "tensorboard"
        # Steps after the last checkpoint are done again.
        self._tracker = TensorBoardTracker(self._path.name, str(folder.path), purge_step=step + 1)
        with folder.writing(self._path):
            self._tracker.start()
            # Not accelerate's, which adds a second run to TensorBoard's list.
            self._tracker.writer.add_text("config", f"```yaml\n{yaml.safe_dump(folder.settings, sort_keys=False)}```")

    def log(self, record: Record) -> None:
        with self._folder.writing(self._path):
            self._tracker.log(dict(record.numbers), step=record.step)
            for name, picture in record.pictures.items():
                self._tracker.log_images({name: picture[None]}, step=record.step, dataformats="NHWC")

    def close(self) -> None:
        with self._folder.writing(self._path):
            self._tracker.finish()


class _Client(ABC):
    """A service as its own library reaches it; all its methods are called in one thread.

    before: what `start` returned when the run began, empty in a new run.
    """

    name: str
    fix: str
    tracker: Any

    def __init__(self, folder: RunFolder, project: str | None, before: Mapping[str, Any]) -> None:
        self.folder, self.project, self.before = folder, project, before
        self.run_name = "/".join(Path(os.path.abspath(folder.path)).parts[-2:])

    @abstractmethod
    def start(self) -> dict[str, Any]:
        """Begin the run, or go on with it, with its settings. Returns by what it is found again."""

    def log(self, record: Record) -> None:
        if record.numbers:
            self.tracker.log(dict(record.numbers), step=record.step)

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """End the run."""


class _Wandb(_Client):
    """Weights & Biases, whose files are in `wandb/` of the run. It logs the use of the machine by itself.

    Steps that are done again after an interruption have the same numbers, and it keeps the first.
    """

    name = "wandb"
    fix = "see to `wandb login` and the network, or log to files with WANDB_MODE=offline"

    def start(self) -> dict[str, Any]:
        from accelerate.tracking import WandBTracker

        project = self.before.get("project") or self.project or os.environ.get("WANDB_PROJECT", "svfap")
        kwargs: dict[str, Any] = {name: self.before[name] for name in ("id", "entity") if self.before.get(name)}
        kwargs["name"] = os.environ.get("WANDB_NAME", self.run_name)
        self.tracker = WandBTracker(project, **kwargs, resume="allow", dir=str(self.folder.path))
        self.tracker.start()
        self.tracker.store_init_configuration(self.folder.settings)
        run = self.tracker.tracker
        return {"id": run.id, "project": project, "entity": run.entity or None}

    def log(self, record: Record) -> None:
        super().log(record)
        if record.pictures:
            pictures = {name: [picture] for name, picture in record.pictures.items()}
            self.tracker.log_images(pictures, step=record.step)

    def finish(self, outcome: Outcome) -> None:
        self.tracker.tracker.finish(exit_code=0 if outcome == "finished" else 1)


class _Mlflow(_Client):
    """MLflow, at MLFLOW_TRACKING_URI or in its own default place. The use of the machine goes there as system metrics."""

    name = "mlflow"
    fix = "see to MLFLOW_TRACKING_URI"
    ENDS: Mapping[Outcome, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def start(self) -> dict[str, Any]:
        import mlflow
        from accelerate.tracking import MLflowTracker

        project = self.before.get("project") or self.project or os.environ.get("MLFLOW_EXPERIMENT_NAME", "svfap")
        self.tracker = MLflowTracker(project, run_id=self.before.get("id"), run_name=self.run_name)
        self.tracker.experiment_name = project  # accelerate prefers the variable to what is asked for
        self.tracker.start()
        if not self.before:  # what is noted there cannot be changed later
            self.tracker.store_init_configuration(flat_settings(self.folder.settings))
        mlflow.log_artifact(str(self.folder.config_file))
        run = self.tracker.tracker.info.run_id
        say(f"mlflow: run {run} of experiment {project} at {mlflow.get_tracking_uri()}")
        return {"id": run, "project": project}

    def log(self, record: Record) -> None:
        import mlflow

        super().log(record._replace(numbers={_allowed(name): value for name, value in record.numbers.items()}))
        for name, picture in record.pictures.items():
            mlflow.log_image(picture, key=name, step=record.step, synchronous=True)

    def finish(self, outcome: Outcome) -> None:
        import mlflow

        mlflow.end_run(self.ENDS[outcome])


def _allowed(name: str) -> str:
    """The name of a metric with only the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)


SERVICES: dict[str, type[_Client]] = {client.name: client for client in (_Wandb, _Mlflow)}


class _Service:
    """Sends to a service in a thread of its own, so that training neither waits nor ends where it cannot be reached.

    What cannot be sent is kept and sent again later.
    """

    def __init__(self, client: _Client) -> None:
        self._client, self._name = client, client.name
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[Record] = deque()
        self._failing, self._retry_at, self._started = False, 0.0, False
        # Not an executor, whose threads keep the program from ending.
        threading.Thread(target=self._do_work, daemon=True, name=f"tracking-{self._name}").start()

    def start(self) -> dict[str, Any]:
        """Begin the run of the service. Raises `UserError`."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        say(f"{self._name}: starting")
        try:
            found = self._asked(self._client.start).result()
        except Exception as error:  # network, login, storage: each library has its own
            raise UserError(
                f"track={self._name}: cannot be started ({first_line(error)}); {self._client.fix}"
            ) from None
        self._started = True
        return found

    def log(self, record: Record) -> None:
        """Send a record soon."""
        self._waiting.append(record)
        self._work.put(self._send)

    def close(self, outcome: Outcome) -> None:
        """Send what is left, and end the run of the service."""
        if not self._started:
            return
        self._retry_at, ended = 0.0, self._asked(lambda: self._finish(outcome))
        try:
            ended.result(timeout=CLOSE_S)
        except Late:
            say(f"{self._name}: did not end within {CLOSE_S:g} s and is given up; log.jsonl has all numbers")
        except Exception as error:
            say(f"{self._name}: the run could not be ended there ({first_line(error)})")

    def _finish(self, outcome: Outcome) -> None:
        self._send()
        if self._waiting:
            first = self._waiting[0].step
            say(f"{self._name}: could not be reached until the end, so what comes from step {first} on is missing there; "
                "log.jsonl has all numbers")  # fmt: skip
        self._client.finish(outcome)

    def _send(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        while self._waiting:
            try:
                self._client.log(self._waiting[0])
            except Exception as error:
                self._retry_at = time.monotonic() + RETRY_S
                if not self._failing:
                    say(f"warning: {self._name} does not take the log ({first_line(error)}); training goes on, log.jsonl has "
                        f"everything, and {self._name} is tried again every {RETRY_S:g} s")  # fmt: skip
                self._failing = True
                return
            self._waiting.popleft()
            if self._failing:
                say(f"{self._name} takes the log again")
            self._failing = False

    def _asked(self, work: Callable[[], T]) -> Future[T]:
        """Do work in the thread."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._work.put(do)
        return future

    def _do_work(self) -> None:
        while True:
            self._work.get()()
