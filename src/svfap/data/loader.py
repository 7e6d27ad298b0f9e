"""Batches of clips, loaded in worker processes, whose number does not change the result."""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from svfap.data.clip_dataset import Batch, ClipDataset
from svfap.data.order import sharded_batches
from svfap.data.shared_memory import BATCHES_AHEAD, hand_over, require_room, worker_errors
from svfap.errors import UserError
from svfap.signals import STOP_SIGNALS


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch for one process, as `BatchLoader.batches` describes them; iterating loads them."""

    loader: BatchLoader
    requests: list[list[Request]]

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.load(self.requests)


class BatchLoader:
    """Loads batches of several datasets, in worker processes that are started once and stay until `close`.

    datasets: those that `batches` may be asked for. num_workers: processes; 0: batches are loaded in this process. Only one
    sequence of batches can be loaded at a time. Order and content of batches do not depend on num_workers.
    """

    def __init__(self, *datasets: ClipDataset, num_workers: int = 0, pin_memory: bool = False) -> None:
        self._datasets, self._num_workers, self._pin_memory = datasets, num_workers, pin_memory
        self._requests: list[list[Request]] = []  # of the epoch being loaded; filled anew for each
        self._loader: DataLoader[Batch] | None = None

    def batches(
        self,
        dataset: ClipDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """The batches of one epoch for one process; for their order and the arguments see `sharded_batches`.

        Raises `UserError` if the samples to shuffle do not fill one global batch.
        """
        if shuffle and len(dataset) < batch_size * world_size:
            processes = f" on each of {world_size} processes" if world_size > 1 else ""
            raise UserError(
                f"{dataset.manifest.path}: {len(dataset)} samples do not fill one batch of {batch_size}{processes}; "
                "make the batch smaller"
            )
        labels = dataset.manifest.labels if dataset.balanced else None
        draws = labels, dataset.manifest.mixture
        order = sharded_batches(len(dataset), batch_size, shuffle, seed, epoch, start_batch, rank, world_size, *draws)
        part = next(number for number, each in enumerate(self._datasets) if each is dataset)
        return Batches(self, [[Request(part, epoch, sample) for sample in batch] for batch in order])

    def load(self, requests: list[list[Request]]) -> Iterator[Batch]:
        """Load batches. Raises `UserError` if a worker process dies or has no room in the shared memory."""
        self._requests[:] = requests
        with worker_errors():
            if self._loader is None:
                self._loader = self._make()
                batches = iter(self._loader)
                # After torch and multiprocessing, so that it is called before these, which would wait for the workers.
                self._end = partial(_end_workers, batches)
                atexit.register(self._end)
            else:
                batches = iter(self._loader)
            yield from batches

    def close(self) -> None:
        """End the worker processes."""
        if self._loader is not None:
            self._end()
            atexit.unregister(self._end)
            self._loader = None

    def __del__(self) -> None:
        self.close()

    def _make(self) -> DataLoader[Batch]:
        if self._num_workers > 0:
            # In a forked worker OpenCV would wait for threads that only the parent has, so they end before the fork.
            cv2.setNumThreads(1)
        return DataLoader(
            _Loading(self._datasets),
            batch_sampler=self._requests,
            collate_fn=hand_over,  # type: ignore[arg-type] # of the batch that `_Loading` has made
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            prefetch_factor=BATCHES_AHEAD if self._num_workers > 0 else None,
            pin_memory=self._pin_memory,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # the default would draw from the global generator and so change training
        )


def make_loader(
    dataset: ClipDataset, batch_size: int, *, num_workers: int = 0, pin_memory: bool = False, **order: Any
) -> Batches:
    """The batches of one epoch of one dataset. Worker processes end with the object that this returns.

    order: see `BatchLoader.batches`. Raises `UserError` also if the workers' batches do not fit into the shared memory.
    """
    require_room(num_workers, batch_size * dataset.item_bytes)
    loader = BatchLoader(dataset, num_workers=num_workers, pin_memory=pin_memory)
    return loader.batches(dataset, batch_size, **order)


class Request(NamedTuple):
    """One sample that a worker is asked for: number of the dataset, epoch, position of the sample in the dataset."""

    part: int
    epoch: int
    sample: int


class _Loading(Dataset[Batch]):
    """Makes batches of requests, from copies of the datasets: their `epoch` is set for each batch."""

    def __init__(self, datasets: Sequence[ClipDataset]) -> None:
        self.datasets = [replace(dataset) for dataset in datasets]

    def __getitems__(self, requests: list[Request]) -> Batch:
        dataset = self.datasets[requests[0].part]
        dataset.epoch = requests[0].epoch
        return dataset.collate([dataset[request.sample] for request in requests])


def _say_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The `sys.excepthook` of a worker. A main process that stops while it receives a batch is no error."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_workers(batches: object) -> None:
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()  # waits some seconds for each
        for worker in batches._workers:
            worker.kill()  # one that is still loading; they ignore SIGTERM


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
    sys.excepthook = _say_error
    # The main process handles these signals: it saves before it stops, and may need batches until then.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
