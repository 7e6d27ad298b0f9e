"""The attentive reader of frozen features: one learned query attends to all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from svfap.errors import UserError
from svfap.model.layers import CrossAttention, Mlp, layer_norm, normed
from svfap.probe.config import DECAYS, EPOCHS, MIN_STEPS, RATES
from svfap.probe.samples import (
    NUM_FOLDS,
    Array,
    Values,
    group_folds,
    is_classes,
    pieces,
    require_features,
    require_least,
    score_of,
    targets_of,
)


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
    """`AttentiveReader`, trained by AdamW with a cosine schedule; see `svfap.probe.readers`.

    train_tokens: (N, T, D), test_tokens: (M, T, D); standardised by channel. Learning rate and weight decay are those of the
    best score on one fold of people that is held out from a first fit; the final fit has all samples. epochs: default: `EPOCHS`,
    or as many as give `MIN_STEPS` steps, since a few samples take few steps in an epoch. num_heads: at most that many, the
    next divisor of D. on_choice: called with the (rate, decay) of the final fit.

    Returns (seeds, M, K): probabilities of classes or values, from one fit for each seed. Raises `UserError` as
    `linear_probe` does, and for a training that diverges with the chosen settings.
    """
    train_tokens, test_tokens = require_features(3, train_tokens=train_tokens, test_tokens=test_tokens)
    require_least(num_folds=(num_folds, 2), epochs=(epochs, 1), batch_size=(batch_size, 1), num_heads=(num_heads, 1))
    for name, given in (("rates", rates), ("decays", decays), ("seeds", seeds)):
        require_least(**{f"number of {name}": (len(given), 1)})
    y, targets, weights = targets_of(train_tokens, train_y, train_groups, num_classes)
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
        return float(score_of(y[held_out], targets[held_out], predicted).mean()) if finite else -np.inf

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
    classes = is_classes(y)
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
    for piece in pieces(tokens):
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
