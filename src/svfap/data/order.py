"""Which samples form which batch of an epoch: shuffled, in equal numbers of each class, or in shares of several manifests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svfap.data.manifest import Mixture


def sharded_batches(
    length: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    labels: NDArray[np.int64] | None = None,
    mixture: Mixture | None = None,
) -> list[list[int]]:
    """The batches of sample indices of one epoch for process `rank` of `world_size`.

    shuffle: a permutation that depends on (seed, epoch) is cut into global batches of batch_size * world_size samples, of
    which each process gets its part. An incomplete last batch is dropped, so all processes have equally many batches.
    Without shuffle the samples come in order, each on exactly one process, and the last batch may be smaller.
    labels: (length,) int64 classes; a shuffled epoch then has all classes equally often. mixture: with weights, a shuffled
    epoch has samples of each manifest in proportion to its weight, and all of them equally often; with labels, all classes
    of a manifest. A sample drawn again in the same epoch gets index + length, then index + 2 * length, so its random draws
    differ.
    start_batch: skip the batches before this one, to resume within an epoch.
    """
    order = np.arange(rank, length, world_size)
    if shuffle:
        num_batches = length // (batch_size * world_size)
        rng = np.random.default_rng([seed, epoch])
        shares = None if mixture is None else mixture.shares
        if mixture is not None and shares is not None:
            order = _mixed_order(mixture.of, shares, labels, rng)
        else:
            order = rng.permutation(length) if labels is None else _balanced_order(labels, rng)
        num_used = num_batches * batch_size * world_size
        order = order[:num_used].reshape(num_batches, world_size, batch_size)[:, rank].ravel()
    starts = range(start_batch * batch_size, len(order), batch_size)
    return [order[start : start + batch_size].tolist() for start in starts]


def _balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many sample indices as labels, with equally many of each class (differing by one if that is not possible)."""
    length = len(labels)
    return rng.permutation(_balanced_draws(np.arange(length), length, labels, rng))


def _mixed_order(
    of: NDArray[np.int64], shares: NDArray[np.float64], labels: NDArray[np.int64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As many sample indices as there are samples, shares[k] of them with of == k: to the next whole number up or down, drawn
    so that the mean over epochs is exact."""
    length = len(of)
    ends = np.floor(np.cumsum(shares)[:-1] * length + rng.random()).astype(np.int64)
    counts = np.diff(ends, prepend=0, append=length).tolist()
    drawn = []
    for number, count in enumerate(counts):
        members = np.flatnonzero(of == number)
        drawn.append(
            _draws(members, count, length, rng) if labels is None else _balanced_draws(members, count, labels, rng)
        )
    return rng.permutation(np.concatenate(drawn))


def _balanced_draws(
    members: NDArray[np.int64], count: int, labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` indices of these samples, with equally many of each of their classes. labels: of all samples."""
    classes = rng.permutation(np.unique(labels[members]))
    drawn = [
        _draws(members[labels[members] == label], len(range(place, count, len(classes))), len(labels), rng)
        for place, label in enumerate(classes)
    ]
    return np.concatenate(drawn)


def _draws(members: NDArray[np.int64], count: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` indices of these samples, each equally often; the second time index + length, then index + 2 * length."""
    draws = np.arange(count)
    return rng.permutation(members)[draws % len(members)] + length * (draws // len(members))
