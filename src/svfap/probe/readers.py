"""Readers of frozen features: linear, nearest neighbours, attentive. Arrays in, predictions out; no files, no encoder.

All readers have the same signature. train_x: (N, D) features, or (N, T, D) tokens for the attentive reader. train_y: (N,)
integer classes, or (N, K) values. train_groups: (N,) the person, or another unit, of each sample: every free setting of a
reader is chosen on people whose samples it was not fitted on, by the score that is reported, UAR or CCC. test_x: (M, D) or
(M, T, D). They return (M, K) float64: scores of classes, whose largest is the prediction, or values. The test part has no
influence on the fit; features are standardised by the training part. Arguments that do not fit raise `UserError`,
which names them.

Every class has the same weight in the fit, whatever its frequency, as UAR has it. Wide features, with more entries than there
are samples, are replaced by their coordinates in the span of the samples, which is exact for a linear reader with an L2
penalty; beyond `MAX_SPAN` samples by a random projection to `MAX_SPAN` numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from torch import Tensor, nn

from svfap.errors import UserError
from svfap.evaluation.confidence import subject_scores
from svfap.model.layers import CrossAttention, Mlp, layer_norm, normed
from svfap.probe.config import DECAYS, EPOCHS, MIN_STEPS, RATES

Array = NDArray[Any]
Values = NDArray[np.float64]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]

NUM_FOLDS = 5
STRENGTHS = np.logspace(-5, 3, 17)  # of the L2 penalty, in units of the features' total variance
NEIGHBOURS = (5, 10, 20, 50)
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO
MAX_SPAN = 2048
COLUMNS = 4096  # of wide features that are standardised at a time
ROWS = 1024  # test samples compared with the training part at a time


def group_folds(groups: ArrayLike, y: ArrayLike | None = None, num_folds: int = NUM_FOLDS, seed: int = 0) -> list[Fold]:
    """Folds (indices of the training part, indices of the held-out part) that divide no group; each sample is held out once.

    groups: (N,). y: (N,) integer classes are spread evenly over the folds; other targets are not looked at. Fewer groups
    than num_folds give as many folds as there are groups. Raises `UserError` for a single group.
    """
    names, of = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            "a reader is chosen on people that it was not fitted on; the training part needs at least 2 people"
        )
    number = min(num_folds, len(names))
    nothing = np.zeros((len(of), 1))
    if y is not None and _is_classes(np.asarray(y)):
        # Not all classes need occur as often as there are folds.
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(
            nothing, _few(np.asarray(y), number), of
        )
    else:
        folds = GroupKFold(number, shuffle=True, random_state=seed).split(nothing, None, of)
    return [(train, held_out) for train, held_out in folds if len(train) and len(held_out)]


def linear_probe(
    train_x: Array,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: Array,
    *,
    num_classes: int | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Values:
    """Ridge regression on standardised features, of classes as one-hot vectors; see the top of this module.

    The strength of the penalty is chosen from `STRENGTHS`, for each dimension of a regression by itself. num_classes: K;
    default: as many as there are in `train_y`. Raises `UserError` for shapes that do not fit, and for a single group.
    """
    train_x, test_x = _features(2, train_x=train_x, test_x=test_x)
    _require(num_folds=(num_folds, 2))
    y, targets, weights = _targets(train_x, train_y, train_groups, num_classes)
    train, test = _narrow(train_x, test_x, seed)

    def path(a: Array, b: Array, fit: NDArray[np.int64]) -> Values:
        """The predictions for b by every strength, fitted on the samples `fit` of a: (strengths, samples, K)."""
        number = targets.shape[1]
        ridge = Ridge(alpha=np.repeat(STRENGTHS * len(fit), number), solver="svd")
        ridge.fit(a[fit], np.tile(targets[fit], len(STRENGTHS)), weights[fit])
        return ridge.predict(b).reshape(len(b), len(STRENGTHS), number).transpose(1, 0, 2)

    chosen = _choose(lambda fit, held_out: path(train, train[held_out], fit), y, targets, train_groups, num_folds, seed)
    final = path(train, test, np.arange(len(train)))
    return np.stack([final[best, :, k] for k, best in enumerate(chosen)], axis=1)


def knn_probe(
    train_x: Array,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: Array,
    *,
    num_classes: int | None = None,
    neighbours: int | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Values:
    """The nearest neighbours by the cosine of standardised features; see the top of this module.

    Neighbours vote for their class, or average their values, with the weights exp(cosine / 0.07), as in DINO. neighbours:
    their number k, at least 1; default: chosen from `NEIGHBOURS`. Raises `UserError` as `linear_probe` does.
    """
    train_x, test_x = _features(2, train_x=train_x, test_x=test_x)
    _require(num_folds=(num_folds, 2), neighbours=(neighbours, 1))
    y, targets, weights = _targets(train_x, train_y, train_groups, num_classes)
    train, test = (_unit(x) for x in _standardised(train_x, test_x))

    def votes(bank: NDArray[np.int64], queries: Array, numbers: Sequence[int]) -> Values:
        """The predictions by every number of neighbours: (numbers, queries, K)."""
        parts = [_vote(train[bank], targets[bank], weights[bank], part, numbers) for part in _pieces(queries)]
        return np.concatenate(parts, axis=1)

    everything = np.arange(len(train))
    if neighbours is not None and neighbours > len(train):
        raise UserError(f"neighbours={neighbours}: only {len(train)} samples fit the reader; give fewer")
    if neighbours is not None:
        return votes(everything, test, [neighbours])[0]
    chosen = _choose(
        lambda bank, held_out: votes(bank, train[held_out], NEIGHBOURS), y, targets, train_groups, num_folds, seed
    )
    final = votes(everything, test, NEIGHBOURS)
    return np.stack([final[best, :, k] for k, best in enumerate(chosen)], axis=1)


class AttentiveReader(nn.Module):
    """V-JEPA's attentive probe (Bardes et al., 2024): one learned query attends to all tokens, then a linear head.

    One cross-attention block: layer norm of the tokens, multi-head attention, a residual MLP. num_heads: a divisor of dim.
    Since the query is the same for all clips, keys and values need not be computed: each head compares the tokens with one
    vector, and maps its weighted mean of the tokens. This is the same function at a fraction of the cost.
    """

    def __init__(self, dim: int, num_heads: int, num_outputs: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.token_norm, self.norm = layer_norm(dim), layer_norm(dim)
        self.attention = CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.head = nn.Linear(dim, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Not a fixed 0.02: in a narrow network the query would learn at high rates only.
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.query, self.head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D), normalised over channels without scale and shift (`normed`), -> (B, num_outputs)."""
        query = self.query + self._attend(tokens)
        query = query + self.mlp(self.norm(query))
        return self.head(query[:, 0])

    def _attend(self, tokens: Tensor) -> Tensor:
        """What `self.attention(query, token_norm(tokens))` gives: (B, 1, D)."""
        attention, scale, shift = self.attention, self.token_norm.weight, self.token_norm.bias
        heads = (attention.num_heads, -1)
        query = F.linear(self.query[0, 0], attention.q.weight, attention.q_bias).unflatten(0, heads)  # H, d
        key, value = (weight.unflatten(0, heads) for weight in attention.kv.weight.chunk(2))  # H, d, D
        wanted = torch.einsum("hd,hdc->hc", query, key) * scale / query.shape[1] ** 0.5
        share = (tokens @ wanted.T).softmax(dim=1)  # B, T, H
        mean = (share.transpose(1, 2) @ tokens) * scale + shift  # B, H, D
        return attention.proj(torch.einsum("bhc,hdc->bhd", mean, value).flatten(1) + attention.v_bias)[:, None]


def attentive_probe(
    train_tokens: Array,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_tokens: Array,
    *,
    num_classes: int | None = None,
    num_heads: int = 8,
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
    epochs: int | None = None,
    batch_size: int = 64,
    seeds: Sequence[int] = (0,),
    num_folds: int = NUM_FOLDS,
    device: str | torch.device = "cpu",
    on_choice: Callable[[tuple[float, float]], object] | None = None,
) -> Values:
    """`AttentiveReader`, trained by AdamW with a cosine schedule; see the top of this module.

    train_tokens: (N, T, D), test_tokens: (M, T, D); standardised by channel. Learning rate and weight decay are those of the
    best score on one fold of people that is held out from a first fit; the final fit has all samples. epochs: default: `EPOCHS`,
    or as many as give `MIN_STEPS` steps, since a few samples take few steps in an epoch. num_heads: at most that many, the
    next divisor of D. on_choice: called with the (rate, decay) of the final fit.

    Returns (seeds, M, K): probabilities of classes or values, from one fit for each seed. Raises `UserError` as
    `linear_probe` does, and for a training that diverges with the chosen settings.
    """
    train_tokens, test_tokens = _features(3, train_tokens=train_tokens, test_tokens=test_tokens)
    _require(num_folds=(num_folds, 2), epochs=(epochs, 1), batch_size=(batch_size, 1), num_heads=(num_heads, 1))
    for name, given in (("rates", rates), ("decays", decays), ("seeds", seeds)):
        _require(**{f"number of {name}": (len(given), 1)})
    y, targets, weights = _targets(train_tokens, train_y, train_groups, num_classes)
    mean, deviation = _channels(train_tokens)
    train, test = (_prepared(tokens, mean, deviation) for tokens in (train_tokens, test_tokens))
    dim = train_tokens.shape[2]
    heads = next(number for number in range(min(num_heads, dim), 0, -1) if dim % number == 0)
    length = epochs or max(EPOCHS, -(-MIN_STEPS // -(-len(train) // batch_size)))
    fit, held_out = group_folds(train_groups, y, num_folds)[0]
    settings = list(product(rates, decays))

    def predict(rows: Array, rate: float, decay: float, seed: int, queries: Array) -> Values:
        return _fit_attentive(
            train, y, targets, weights, rows, queries, rate, decay, seed,
            heads=heads, epochs=length, batch_size=batch_size, device=torch.device(device),
        )  # fmt: skip

    def score(setting: tuple[float, float]) -> float:
        """The mean score for the people held out; that of a training that diverges is below all others."""
        predicted = predict(fit, *setting, seeds[0], train[held_out])
        finite = np.isfinite(predicted).all()
        return float(_score(y[held_out], targets[held_out], predicted).mean()) if finite else -np.inf

    rate, decay = max(settings, key=score) if len(settings) > 1 else settings[0]
    if on_choice is not None:
        on_choice((rate, decay))
    everything = np.arange(len(train_tokens))
    found = np.stack([predict(everything, rate, decay, seed, test) for seed in seeds])
    if not np.isfinite(found).all():
        raise UserError(f"attentive reader: its training diverges at a rate of {rate:g}; give smaller rates")
    return found


def _fit_attentive(
    tokens: Array, y: Array, targets: Values, weights: Values, rows: Array, queries: Array, rate: float, decay: float,
    seed: int, *, heads: int, epochs: int, batch_size: int, device: torch.device,
) -> Values:  # fmt: skip
    """Train a reader on some rows of normalised tokens and apply it to the queries (M, T, D): (M, K)."""
    classes = _is_classes(y)
    centre, scale = targets[rows].mean(axis=0), targets[rows].std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    wanted = torch.from_numpy(np.asarray(y if classes else (targets - centre) / scale))
    wanted = wanted.long() if classes else wanted.float()
    share = torch.from_numpy(weights).float()

    def batch(source: Array, index: Array) -> Tensor:
        return torch.from_numpy(source[index]).to(device).float()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = AttentiveReader(tokens.shape[2], heads, targets.shape[1]).to(device)
    matrices = [p for p in reader.parameters() if p.ndim > 1 and p is not reader.query]
    others = [p for p in reader.parameters() if p.ndim <= 1 or p is reader.query]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(rows)
        for index in (np.sort(order[i : i + batch_size]) for i in range(0, len(order), batch_size)):
            outputs = reader(batch(tokens, index))
            target = wanted[index].to(device)
            if classes:
                losses = F.cross_entropy(outputs, target, reduction="none")
            else:
                losses = F.mse_loss(outputs, target, reduction="none").mean(dim=1)
            loss = (losses * share[index].to(device)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    reader.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(queries), batch_size):
            outputs = reader(batch(queries, np.arange(start, min(start + batch_size, len(queries)))))
            parts.append((outputs.softmax(dim=1) if classes else outputs).cpu().double().numpy())
    found = np.concatenate(parts)
    return found if classes else found * scale + centre


def _channels(tokens: Array) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (N, T, D): (D,) float32 each."""
    total, squares = np.zeros(tokens.shape[2]), np.zeros(tokens.shape[2])
    for piece in _pieces(tokens):
        part = np.asarray(piece, np.float64).reshape(-1, tokens.shape[2])
        total, squares = total + part.sum(axis=0), squares + (part**2).sum(axis=0)
    mean = total / (len(tokens) * tokens.shape[1])
    deviation = np.sqrt(np.maximum(squares / (len(tokens) * tokens.shape[1]) - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(deviation > 1e-6, deviation, 1)).float()


def _prepared(tokens: Array, mean: Tensor, deviation: Tensor) -> Array:
    """Tokens standardised by channel, then normalised over channels: (N, T, D) float16."""
    found = np.empty(tokens.shape, np.float16)
    for start in range(0, len(tokens), 64):
        part = torch.from_numpy(np.asarray(tokens[start : start + 64], np.float32))
        found[start : start + 64] = normed((part - mean) / deviation).half().numpy()
    return found


def _features(num_axes: int, **parts: ArrayLike) -> list[Array]:
    """The features that fit and those that are read, by the names of the arguments, as arrays. Raises `UserError`."""
    found = {name: np.asarray(part) for name, part in parts.items()}
    for name, x in found.items():
        if x.ndim != num_axes or not np.issubdtype(x.dtype, np.number):
            form = "(N, D)" if num_axes == 2 else "(N, T, D)"
            raise UserError(f"{name}: must be numbers {form}, not {x.dtype} of shape {x.shape}")
        if not all(np.isfinite(piece).all() for piece in _pieces(x)):
            raise UserError(f"{name}: has numbers that are not finite; leave these samples out")
    (first, train), (second, test) = found.items()
    if train.shape[1:] != test.shape[1:]:
        raise UserError(f"{second}: has samples of shape {test.shape[1:]}, and {first} of {train.shape[1:]}")
    return [train, test]


def _require(**given: tuple[int | None, int]) -> None:
    """Raise `UserError` for an argument, name -> (value, least), that is given and below its least value."""
    for name, (value, least) in given.items():
        if value is not None and value < least:
            raise UserError(f"{name}={value}: must be at least {least}")


def _targets(
    x: Array, y: ArrayLike, groups: ArrayLike, num_classes: int | None
) -> tuple[Array, Values, NDArray[np.float64]]:
    """The targets as given, as (N, K) numbers, and the weights (N,) of the samples, 1 on average. Raises `UserError`."""
    given = np.asarray(y)
    if len(given) != len(x) or len(np.asarray(groups)) != len(x) or not len(x):
        raise UserError(
            f"train_y, train_groups: {len(x)} samples, {len(given)} targets and {len(np.asarray(groups))} groups do not fit "
            "together"
        )
    if not _is_classes(given):
        numbers = np.issubdtype(given.dtype, np.number)
        if not numbers or given.ndim != 2 or not np.isfinite(given).all():
            fix = "" if numbers else "; number the classes: names, train_y = np.unique(train_y, return_inverse=True)"
            what = f"{given.dtype} of shape {given.shape}"
            raise UserError(f"train_y: must be integer classes (N,) or finite values (N, K), not {what}{fix}")
        return given, given.astype(np.float64), np.ones(len(given))
    if len(np.unique(given)) < 2:
        raise UserError("train_y: holds a single class; there is nothing to tell apart")
    number = max(int(given.max()) + 1, num_classes or 0)
    if given.min() < 0:
        raise UserError("train_y: a class is negative; leave samples without a label out")
    counts = np.bincount(given, minlength=number)
    return given, np.eye(number)[given], (len(given) / (np.count_nonzero(counts) * counts[given]))


def _is_classes(y: Array) -> bool:
    return y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def _few(y: Array, number: int) -> Array:
    """Classes with fewer samples than folds as one, since scikit-learn refuses and warns of them."""
    counts = np.bincount(y)
    merged = np.where(counts[y] < number, -1, y)
    return merged if (np.unique(merged, return_counts=True)[1] >= number).all() else np.zeros_like(y)


def _choose(
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], Values],
    y: Array,
    targets: Values,
    groups: ArrayLike,
    num_folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """The best of several settings for each of the K outputs, by the score of predictions for held-out people.

    predict: from (fit, held_out) indices to the predictions of all settings, (settings, held out, K).
    """
    found: Values | None = None
    for fit, held_out in group_folds(groups, y, num_folds, seed):
        predicted = predict(fit, held_out)
        found = np.zeros((len(predicted), *targets.shape)) if found is None else found
        found[:, held_out] = predicted
    assert found is not None
    scores = np.stack([_score(y, targets, each) for each in found])  # settings, K
    # Of settings that are as good, the one in the middle: those at the ends are extreme.
    ties = [np.flatnonzero(column >= column.max() - 1e-12) for column in scores.T]
    return np.array([tied[len(tied) // 2] for tied in ties])


def _score(y: Array, targets: Values, predictions: Values) -> Values:
    """(K,) scores of predictions (N, K) or (1, N, K): UAR, the same for all classes, or the CCC of each dimension."""
    names = [str(k) for k in range(targets.shape[1])]
    scores = subject_scores(y if _is_classes(y) else targets, predictions, np.zeros(len(y), int).astype(str), names)
    if _is_classes(y):
        return np.full(len(names), scores["uar"].value)
    return np.array([scores[f"ccc_{name}" if len(names) > 1 else "ccc"].value for name in names])


def _standardised(train: Array, test: Array) -> tuple[Values, Values]:
    """Both parts with the training part's mean 0 and deviation 1, in float64; constant columns become 0."""
    known, new = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    constant = deviation <= 1e-6 * np.abs(mean) + 1e-12
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return (known - mean) * factor, (new - mean) * factor


def _narrow(train: Array, test: Array, seed: int) -> tuple[Values, Values]:
    """Both parts standardised, their total variance 1, with at most `MAX_SPAN` or as many columns as there are samples."""
    (number, width), rng = train.shape, np.random.default_rng(seed)
    if width <= min(number, MAX_SPAN) or width <= 256:
        known, new = _standardised(train, test)
        return known / np.sqrt(width), new / np.sqrt(width)
    blocks = ((train[:, i : i + COLUMNS], test[:, i : i + COLUMNS]) for i in range(0, width, COLUMNS))
    if number > MAX_SPAN:
        known, new = np.zeros((number, MAX_SPAN)), np.zeros((len(test), MAX_SPAN))
        for part, other in (_standardised(*block) for block in blocks):
            projection = rng.standard_normal((part.shape[1], MAX_SPAN), np.float32) / np.sqrt(MAX_SPAN * width)
            known += part @ projection
            new += other @ projection
        return known, new
    gram, cross = np.zeros((number, number)), np.zeros((len(test), number))
    for part, other in (_standardised(*block) for block in blocks):
        gram += part @ part.T / width
        cross += other @ part.T / width
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-9 * values[-1]
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    return vectors * roots, cross @ vectors / roots


def _unit(x: Values) -> Values:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _pieces(x: Array) -> Iterator[Array]:
    yield from (x[i : i + ROWS] for i in range(0, len(x), ROWS))


def _vote(bank: Values, targets: Values, weights: Values, queries: Values, numbers: Sequence[int]) -> Values:
    """Votes of the nearest of a bank (N, D) of unit vectors for queries (M, D), by each number of neighbours: (…, M, K)."""
    cosine = queries @ bank.T
    largest = min(max(numbers), len(bank))
    nearest = np.argpartition(-cosine, largest - 1, axis=1)[:, :largest]
    near = np.take_along_axis(cosine, nearest, axis=1)
    order = np.argsort(-near, axis=1, kind="stable")
    nearest, near = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(near, order, axis=1)
    strength = np.exp((near - near[:, :1]) / TEMPERATURE) * weights[nearest]
    return np.stack(
        [
            (strength[:, :k, None] * targets[nearest[:, :k]]).sum(axis=1) / strength[:, :k].sum(axis=1, keepdims=True)
            for k in numbers
        ]
    )
