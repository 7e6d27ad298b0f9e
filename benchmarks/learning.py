"""What decides whether a small network learns from unlabelled synthetic faces: pre-training variants, read by probes.

Every variant differs from the first in the settings that its name says, and has the same number of steps and clips per step
unless it says otherwise. All are pre-trained in memory with several seeds, on one thread each, and read by the package's
readers on people that no training saw; the readers' settings are chosen on training people. Finished runs are kept in OUT
and not done again.

    python benchmarks/learning.py --list
    python benchmarks/learning.py                                   # all variants, three seeds each
    python benchmarks/learning.py difference pixels --seeds 5
    python benchmarks/learning.py --table                           # the table of what is done so far, as Markdown
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from svfap.data.augment import normalize
from svfap.evaluation.confidence import subject_scores
from svfap.files import make_folder, write_atomically
from svfap.model.build import create_model
from svfap.model.config import ModelConfig
from svfap.model.layers import gather_tubelets
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import TubeMask, tube_mask
from svfap.probe.attentive import attentive_probe
from svfap.probe.readers import linear_probe
from svfap.probe.tokens import Tokens, read_pixels, read_tokens
from svfap.synth.behaviour import Behaviour
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig
from svfap.synth.identity import make_identity
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, parameter_groups
from svfap.view.tables import to_markdown

Array = NDArray[Any]
NUM_FRAMES, FPS, FRAMES_OF_VIDEO = 8, 5, 12
PARTS = {"pretrain": 2800, "train": 700, "test": 1400}
VIEWS = (0, 2, 4)  # first frames of the clips that are read
SMALL: dict[str, Any] = {
    "num_frames": NUM_FRAMES, "img_size": 48, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "stage_depths": (2, 2, 2),
    "bottleneck_hidden_dim": 32, "decoder_embed_dim": 64, "decoder_num_heads": 2, "decoder_depth": 1, "standardize_clips": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to pre-train.

    model: differences to `SMALL`. world: differences to the synthetic videos (`RenderConfig`). motion: weight hidden
    tubelets by what changes in them. mask: what is hidden: "tube", positions; "random", any tubelets; "frame", time steps; only
    an encoder of one stage takes the latter two, as a pyramid joins time steps. decoded: part of the hidden tubelets that is
    predicted (the dual masking of VideoMAE v2, drawn at random). steps 0: no pre-training.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    motion: bool = False
    mask: str = "tube"
    decoded: float = 1.0
    steps: int = 1600
    batch_size: int = 32
    rate: float = 1e-3
    weight_decay: float = 0.05


PLACED = {"placement": 0.02}  # a pixel of 48
ONE_STAGE = {"stage_depths": (6,)}


def _model(**changes: Any) -> Variant:
    return Variant(model={"target": "difference", **changes}, world=PLACED)


FIRST = _model()
VARIANTS: dict[str, Variant] = {
    "difference": FIRST,
    "untrained": replace(FIRST, steps=0),
    "untrained, clips as they are": replace(_model(standardize_clips=False), steps=0),
    # What is predicted, and how it is weighted.
    "pixels": _model(target="pixels"),
    "pixels, motion-weighted": replace(_model(target="pixels"), motion=True),
    "difference, motion-weighted": replace(FIRST, motion=True),
    # What the encoder sees.
    "difference, clips as they are": _model(standardize_clips=False),
    "pixels, clips as they are": _model(target="pixels", standardize_clips=False),
    "difference, 50% hidden": _model(mask_ratio=0.5),
    "difference, 90% hidden": _model(mask_ratio=0.9),
    "pixels, 90% hidden": _model(target="pixels", mask_ratio=0.9),
    "difference, 16 positions": _model(patch_size=12),
    "pixels, 16 positions": _model(target="pixels", patch_size=12),
    "difference, 64 positions": _model(patch_size=6),
    "untrained, 16 positions": replace(_model(patch_size=12), steps=0),
    "untrained, 64 positions": replace(_model(patch_size=6), steps=0),
    # The decoder.
    "difference, decoder of 2 blocks": _model(decoder_depth=2),
    "difference, decoder of 4 blocks": _model(decoder_depth=4),
    "pixels, decoder of 4 blocks": _model(target="pixels", decoder_depth=4),
    "difference, half decoded": replace(FIRST, decoded=0.5),
    "difference, half decoded, 1.25 × steps": replace(FIRST, decoded=0.5, steps=2000),
    "difference, half decoded, 5 × steps": replace(FIRST, decoded=0.5, steps=8000),  # costs as much as 4 × steps
    # The mask.
    "difference, one stage": _model(**ONE_STAGE),
    "difference, one stage, 4 × steps": replace(_model(**ONE_STAGE), steps=6400),
    "difference, one stage, random mask, 4 × steps": replace(_model(**ONE_STAGE), mask="random", steps=6400),
    "difference, one stage, frame mask, 4 × steps": replace(_model(**ONE_STAGE), mask="frame", steps=6400),
    "difference, one stage, random mask": replace(_model(**ONE_STAGE), mask="random"),
    "difference, one stage, frame mask": replace(_model(**ONE_STAGE), mask="frame"),
    "pixels, one stage": _model(target="pixels", **ONE_STAGE),
    "pixels, one stage, random mask": replace(_model(target="pixels", **ONE_STAGE), mask="random"),
    "pixels, one stage, frame mask": replace(_model(target="pixels", **ONE_STAGE), mask="frame"),
    "untrained, one stage": replace(_model(**ONE_STAGE), steps=0),
    # The optimiser.
    "difference, rate 3e-4": replace(FIRST, rate=3e-4),
    "difference, rate 3e-3": replace(FIRST, rate=3e-3),
    "pixels, rate 3e-4": replace(_model(target="pixels"), rate=3e-4),
    "difference, batch 64": replace(FIRST, batch_size=64, steps=800),
    "difference, batch 16": replace(FIRST, batch_size=16, steps=3200),
    # Length.
    "difference, 1/4 of the steps": replace(FIRST, steps=400),
    "difference, 4 × steps": replace(FIRST, steps=6400),
    "pixels, 1/4 of the steps": replace(_model(target="pixels"), steps=400),
    "pixels, 4 × steps": replace(_model(target="pixels"), steps=6400),
    "difference, 16 × steps": replace(FIRST, steps=25600),
    "pixels, 16 × steps": replace(_model(target="pixels"), steps=25600),
    # The world.
    "untrained, faces in the middle": replace(FIRST, world={}, steps=0),
    "difference, faces in the middle": replace(FIRST, world={}),
    "pixels, faces in the middle": replace(_model(target="pixels"), world={}),
    "untrained, nuisance 0.5": replace(FIRST, world={**PLACED, "nuisance": 0.5}, steps=0),
    "difference, nuisance 0.5": replace(FIRST, world={**PLACED, "nuisance": 0.5}),
    "pixels, nuisance 0.5": replace(_model(target="pixels"), world={**PLACED, "nuisance": 0.5}),
}


@dataclass(frozen=True)
class Part:
    """Videos uint8 (N, frames, H, W, 3), and for each its class, its person, and what else the renderer knows of it."""

    videos: Array
    classes: Array
    people: Array
    facts: dict[str, Array]


def facts_of(frames: Array, behaviour: Behaviour, identity_seed: int, nuisance: float) -> dict[str, float]:
    """Numbers that are not the expression: of the person, the pose, and the light."""
    face = make_identity(identity_seed, nuisance)
    pose = behaviour.pose.mean(axis=0)
    halves = frames[..., : frames.shape[2] // 2, :].mean(), frames[..., frames.shape[2] // 2 :, :].mean()
    return {
        "skin": float(face.skin.mean()), "glasses": float(face.glasses != "none"), "brow height": face.brow_y,
        "yaw": float(pose[4]), "pitch": float(pose[5]),
        "brightness": float(frames.mean()), "side light": float(halves[0] - halves[1]),
    }  # fmt: skip


@lru_cache(maxsize=2)
def world(size_px: int, settings: tuple[tuple[str, Any], ...]) -> dict[str, Part]:
    """All parts, rendered in memory: the same for the same arguments."""
    cv2.setNumThreads(1)
    config = RenderConfig(
        size_px=size_px,
        fps=FPS,
        num_frames=FRAMES_OF_VIDEO,
        **{"nuisance": 0.1, "expression_gain": 1.3, **dict(settings)},
    )
    parts, person, number = {}, 0, 0
    for name, count in PARTS.items():
        videos = np.empty((count, FRAMES_OF_VIDEO, size_px, size_px, 3), np.uint8)
        people, facts = [], []
        for index in range(count):
            person += index % len(CLASSES) == 0
            frames, behaviour = render_clip(config, person, number, CLASSES[index % len(CLASSES)])
            facts.append(facts_of(frames, behaviour, person, config.nuisance))
            videos[index] = frames
            people.append(person)
            number += 1
        table = pd.DataFrame(facts)
        columns = {column: table[column].to_numpy() for column in table}
        parts[name] = Part(videos, np.arange(count) % len(CLASSES), np.array(people), columns)
    return parts


def weighted_loss(model: MaskedAutoencoder, clips: Tensor, mask: TubeMask) -> Tensor:
    """Eq. 11 with each hidden tubelet weighted by the root of how much it changes over the clip, 1 on average."""
    config = model.config
    change = (clips - clips.mean(dim=2, keepdim=True)).square()
    moved = gather_tubelets(change, mask.hidden, config.tubelet_size, config.patch_size).flatten(2).mean(dim=2)
    weight = (moved + 1e-5).sqrt()
    error = (model(clips, mask) - model.targets(clips, mask)).square().mean(dim=2)
    return (error * weight / weight.mean(dim=1, keepdim=True)).mean()


def drawn(kind: str, batch: int, config: ModelConfig, generator: torch.Generator) -> TubeMask:
    """A mask that hides `config.mask_ratio` of the positions, of all tubelets, or of the time steps."""
    if kind == "tube":
        return tube_mask(batch, config, generator=generator)
    draws = torch.rand(
        batch, config.num_time_steps, 1 if kind == "frame" else config.num_positions, generator=generator
    )
    order = draws.expand(-1, -1, config.num_positions).flatten(1).argsort(dim=1, stable=True)
    num_hidden = int(config.mask_ratio * config.num_tokens)
    masked = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :num_hidden], True)
    return TubeMask.from_bool(masked, config)


def thinned(mask: TubeMask, part: float, generator: torch.Generator) -> TubeMask:
    """The mask without the hidden tubelets that are not to be predicted."""
    order = torch.rand(mask.hidden.shape, generator=generator).argsort(dim=1)
    kept = order[:, : int(part * mask.hidden.shape[1])].sort(dim=1).values
    return TubeMask(mask.visible, mask.hidden.gather(1, kept))


def pretrained(variant: Variant, parts: Mapping[str, Part], seed: int) -> tuple[MaskedAutoencoder, dict[str, float]]:
    """The model after pre-training, and its loss, gradient norm and seconds."""
    torch.manual_seed(seed)
    model = create_model("svfap_tiny", "pretraining", **{**SMALL, "mask_ratio": 0.75, **variant.model})
    assert isinstance(model, MaskedAutoencoder)
    if not variant.steps:
        return model, {}
    shape, videos, rng = model.config, parts["pretrain"].videos, np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    if variant.decoded < 1:
        model.encoder._check = lambda clip, mask: None  # type: ignore[method-assign]  # it counts all hidden tubelets
    optimizer = build_optimizer(parameter_groups(model, variant.weight_decay), (0.9, 0.95))
    rates = cosine_schedule(variant.rate, variant.rate / 100, 1, variant.steps, 0.05)
    clip_numbers = np.arange(NUM_FRAMES)
    start, losses, norms = time.process_time(), [], []
    model.train()
    for rate in rates:
        rows = rng.choice(len(videos), variant.batch_size, replace=False)
        first = rng.integers(0, FRAMES_OF_VIDEO - NUM_FRAMES + 1, variant.batch_size)
        batch = videos[rows[:, None], first[:, None] + clip_numbers]
        clips = normalize(torch.from_numpy(batch), shape.pixel_mean, shape.pixel_std)
        mask = drawn(variant.mask, len(clips), shape, generator)
        if variant.decoded < 1:
            mask = thinned(mask, variant.decoded, generator)
        loss = weighted_loss(model, clips, mask) if variant.motion else model.loss(clips, mask)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        apply_lr(optimizer, float(rate))
        optimizer.step()
        losses.append(loss.item())
    last = slice(-max(1, variant.steps // 20), None)
    return model, {
        "loss": float(np.mean(losses[last])), "gradient norm": float(np.mean(norms[last])),
        "cpu seconds": time.process_time() - start,
    }  # fmt: skip


def measured(model: MaskedAutoencoder, parts: Mapping[str, Part], seed: int) -> dict[str, float]:
    """What readers find in the frozen features of test people."""
    fit, test = (
        read_tokens(
            model, views(parts[name]), sets=("last", "fused", "tokens", "stages"), device="cpu", precision="fp32",
            batch_size=64,
        )
        for name in ("train", "test")
    )  # fmt: skip
    train, scored = parts["train"], parts["test"]
    found: dict[str, float] = {}
    labels, people = (np.repeat(each, len(VIEWS)) for each in (train.classes, train.people))
    stages = [name for name in ("stage_1", "stage_2") if name in fit.sets]
    for name in (*stages, "last", "fused", "tokens"):
        read = linear_probe(fit.of_clips(name), labels, people, test.of_clips(name), num_classes=len(CLASSES))
        found[f"linear, {name}"] = uar(read[None], scored)
    tokens = fit.of_clips("tokens", flat=False), test.of_clips("tokens", flat=False)
    read = attentive_probe(tokens[0], labels, people, tokens[1], num_classes=len(CLASSES), seeds=(seed,))
    found["attentive"] = uar(read, scored)
    x, y = (each.of_clips("last") for each in (fit, test))
    for fact, values in train.facts.items():
        known = np.repeat(scored.facts[fact], len(VIEWS))
        read = linear_probe(x, np.repeat(values, len(VIEWS))[:, None], people, y)[:, 0]
        found[f"R², {fact}"] = float(1 - np.square(known - read).sum() / np.square(known - known.mean()).sum())
    for name in ("last", "tokens"):
        found[f"identity, {name}"] = recognised(test.of_clips(name), scored)
    return {**found, **spectrum(y, test)}


def recognised(features: Array, part: Part) -> float:
    """The percentage of views whose person a linear reader names, of all people of the part.

    features: (views, channels). The reader is fitted on videos of four expressions of each person and tested on those of the
    other three; its penalty is chosen over the four.
    """
    classes, people = (np.repeat(each, len(VIEWS)) for each in (part.classes, part.people))
    names, person = np.unique(people, return_inverse=True)
    fitted = classes < 4
    outputs = linear_probe(
        features[fitted], person[fitted], classes[fitted], features[~fitted], num_classes=len(names)
    )  # fmt: skip
    return 100 * float((outputs.argmax(axis=1) == person[~fitted]).mean())


def uar(outputs: Array, part: Part) -> float:
    """UAR in percent of outputs (runs, clips, classes) for the views of a part, averaged over the views of a video."""
    of_videos = outputs.reshape(len(outputs), -1, len(VIEWS), outputs.shape[-1]).mean(axis=2)
    return 100 * subject_scores(part.classes, of_videos, part.people.astype(str), CLASSES)["uar"].value


def views(part: Part) -> Array:
    """The clips that are read of each video, one after another: uint8 (N, T, H, W, 3)."""
    numbers = np.array(VIEWS)[:, None] + np.arange(NUM_FRAMES)
    return part.videos[:, numbers].reshape(-1, NUM_FRAMES, *part.videos.shape[2:])


def spectrum(pooled: Array, tokens: Tokens) -> dict[str, float]:
    """Where the variance lies: effective rank of the pooled features; of tokens, the part over time and between positions."""
    values = np.linalg.svd(pooled - pooled.mean(axis=0), compute_uv=False) ** 2
    share = values / values.sum()
    each = tokens.sets["stage_1"].astype(np.float64)  # clips, steps, channels
    total = np.square(each - each.mean(axis=(0, 1))).sum()
    over_time = np.square(each - each.mean(axis=1, keepdims=True)).sum()
    tokens_of = tokens.sets["tokens"].astype(np.float64)
    by_position = np.square(tokens_of.mean(axis=0) - tokens_of.mean(axis=(0, 1, 2))).sum() * len(tokens_of)
    whole = np.square(tokens_of - tokens_of.mean(axis=(0, 1, 2))).sum()
    return {
        "effective rank": float(np.exp(-(share * np.log(share + 1e-12)).sum())),
        "largest direction": float(share[0]),
        "within clips over time": float(over_time / total),
        "between positions": float(by_position / whole),
    }


def pixel_rows(parts: Mapping[str, Part]) -> dict[str, float]:
    """The linear reader of 12 × 12 grey pixels."""
    read = {}
    for name in ("train", "test"):
        clips = torch.from_numpy(views(parts[name]))
        read[name] = torch.cat([read_pixels(each, 1)["pixels"] for each in clips.split(256)]).flatten(1).numpy()
    labels, people = (np.repeat(each, len(VIEWS)) for each in (parts["train"].classes, parts["train"].people))
    outputs = linear_probe(read["train"], labels, people, read["test"], num_classes=len(CLASSES))
    return {
        "linear, pixels": uar(outputs[None], parts["test"]),
        "identity, pixels": recognised(read["test"], parts["test"]),
    }


def run(name: str, seed: int, out: Path) -> Path:
    """Pre-train one variant with one seed and read it; the result is a JSON file, the weights lie beside it."""
    file = out / f"{slug(name)}-{seed}.json"
    variant = VARIANTS[name]
    described = json.loads(json.dumps(asdict(variant), default=list))
    if file.is_file():
        done = json.loads(file.read_text())
        if done["variant"] != described:
            sys.exit(f"{file}: is of other settings; remove it, or give another --out")
        return file
    torch.set_num_threads(1)
    parts = world(SMALL["img_size"], tuple(sorted(variant.world.items())))
    model, training = pretrained(variant, parts, seed)
    scores = {**training, **measured(model, parts, seed), **(pixel_rows(parts) if not variant.steps else {})}
    model.save_pretrained(out / f"{slug(name)}-{seed}")
    write_atomically(file, json.dumps({"name": name, "seed": seed, "variant": described, "scores": scores}, indent=2))
    return file


def do_all(one: Callable[..., Path], wanted: Sequence[tuple[Any, ...]], jobs: int) -> None:
    """Call `one` with each of the arguments, `jobs` at a time in processes of their own, with a line for each that is done."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(one, *arguments) for arguments in wanted]
        for number, done in enumerate(as_completed(waiting), 1):
            print(f"{number} of {len(wanted)}: {done.result()}", flush=True)


def slug(name: str) -> str:
    """The name as a file's name."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def finished(out: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """The results that are there."""
    for name, file in product(names, sorted(out.glob("*.json"))):
        done = json.loads(file.read_text())
        if done["name"] == name:
            yield done


def table(out: Path, names: list[str]) -> pd.DataFrame:
    """A row for each variant: the mean over seeds ± half the 95% confidence interval of the mean (Student's t)."""
    rows = pd.DataFrame([{"variant": one["name"], **one["scores"]} for one in finished(out, names)])
    if rows.empty:
        sys.exit(f"{out}: no finished runs yet")
    cells = []
    for name, group in rows.groupby("variant", sort=False):
        line = {"variant": name, "seeds": str(len(group))}
        for column in rows.columns[1:]:
            values = group[column].dropna()
            digits = 1 if column.startswith(("linear", "attentive")) else 2
            line[column] = cell(values.to_numpy(), digits)
        cells.append(line)
    return pd.DataFrame(cells)


def cell(values: Array, digits: int) -> str:
    """Mean ± half of its 95% confidence interval; a single value alone."""
    if not len(values):
        return ""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="pre-trainings of each variant, with seeds 0, 1, …")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one process and thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--list", action="store_true", help="show the variants")
    parser.add_argument("--table", action="store_true", help="only print the table of what is done")
    args = parser.parse_args()
    names = args.variants or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"{unknown[0]!r} is no variant; --list shows them")
    if args.list:
        print(*VARIANTS, sep="\n")
        return
    make_folder(args.out)
    if not args.table:
        os.environ["OMP_NUM_THREADS"] = "1"
        wanted = [(name, seed, args.out) for seed, name in product(range(args.seeds), names)]
        do_all(run, wanted, args.jobs)
    print(to_markdown(table(args.out, names)))


if __name__ == "__main__":
    main()
