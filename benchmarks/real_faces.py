"""Does pre-training help on real faces? Synthetic and real pre-training against none, on people that no training saw.

The labels are teacher labels: face geometry and expressions as small networks see them, not human judgements. The corpus is
a folder with `corpus.csv` (path, subject, split), `teacher.csv` (clip, t_s, good, mp_*: labels of frames) and `windows.csv`
(path, start_s, end_s, label, and the means of the frames' labels).

Folds. Every person is scored once, by models that were neither pre-trained nor fitted on them: in fold 0 the people of the
splits "val" and "test", by models of those of "train"; in folds 1 and 2 each half of the "train" people, by models of all
others. Encoders that see real faces are pre-trained anew in each fold, with seeds of their own; those of synthetic faces alone
serve all folds. All settings of the readers are chosen on training people of the fold. Intervals are of a bootstrap over
people. `--split test` shows the scores of the test people alone.

Values. A clip is four labelled frames in a row and the frame halfway to the next of each, about 10 frames per second. Each
time step of the encoder is such a pair, and what is read there is the value of the labelled frame. A window's value is the
mean over its frames. CCC within people: each person's mean is subtracted from labels and outputs. UAR: neutral or happy, of
the windows that are labelled as one of them.

Readers. Probes read the tokens of the time step in the fused stages, of the frozen encoder: the attentive one each of them,
the linear ones, ridge regression, their means in 4 × 4 areas of the picture, or their mean, as fine-tuning does. Fine-tuning
trains the encoder and one linear head for all values and for happy, with the fused stages. All are fitted on at most 40
clips of a person. Rates are chosen on a fifth of the training people; a probe is then fitted to all of them, fine-tuning is
not. The ridge reads 20 × 20 grey pixels of the labelled frame.

Cost. All pre-trainings have the same number of updates and clips, whatever they see, and so have all fine-tunings. "none" is
the untrained encoder for the probes and training from scratch for fine-tuning; "none, as many updates" is trained from scratch
for as many updates as pre-training and fine-tuning have together, which costs about the same.

Finished runs and pre-trained encoders are kept in OUT and not done again.

    python benchmarks/real_faces.py --corpus DIR --list
    python benchmarks/real_faces.py --corpus DIR                              # all conditions, three folds, one seed
    python benchmarks/real_faces.py --corpus DIR none "real, pixels" --seeds 2
    python benchmarks/real_faces.py --corpus DIR --table --split test
    python benchmarks/real_faces.py --corpus DIR --losses                     # how far the pre-trainings got
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from learning import FRAMES_OF_VIDEO, NUM_FRAMES, SMALL, Part, Variant, do_all, pretrained, slug
from numpy.typing import NDArray
from torch import Tensor

from svfap.data.augment import normalize
from svfap.data.video import open_video
from svfap.evaluation.confidence import Interval, SubjectScore, interval, subject_scores
from svfap.files import make_folder, write_atomically
from svfap.model.build import create_model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.model.perceiver import Perceiver
from svfap.probe.attentive import attentive_probe
from svfap.probe.readers import linear_probe
from svfap.probe.samples import group_folds
from svfap.probe.tokens import GREY, read_tokens
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, parameter_groups
from svfap.view.tables import to_markdown

Array = NDArray[Any]
MEASURES = ("mouth_open", "smile_width", "brow_height", "eye_open")
EXPRESSIONS = ("neutral", "happy")
FOLDS = (0, 1, 2)
SIZE, STEPS = 64, NUM_FRAMES // 2  # of a clip: pixels, time steps
# Wider than `SMALL`, and clips as they are, as in the paper.
SHAPE = {"img_size": SIZE, "embed_dim": 96, "num_heads": 3, "standardize_clips": False}
MODEL = {**SMALL, **SHAPE}
MOST = 40  # clips of one person that readers are fitted on
SHIFT = 2  # px, at random in all training
LOSS_CLIPS = 256  # of each part of the people, for --losses
MEAN, LINEAR, PROBE = "linear probe of the mean", "linear probe", "attentive probe"
TUNED, RIDGE = "fine-tuning", "ridge on 20 × 20 grey pixels"
READERS = (RIDGE, MEAN, LINEAR, PROBE, TUNED)
AREAS = {MEAN: 1, LINEAR: 4}  # in each direction, in which a linear probe reads the mean of the tokens


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the encoder is pre-trained on, and what it predicts there.

    faces: "synthetic", "real", or "both", in equal parts; None: not pre-trained. readers: which read it. whole: fine-tuned
    for the updates of pre-training too.
    """

    faces: str | None = None
    target: str = "pixels"
    readers: tuple[str, ...] = (MEAN, LINEAR, PROBE, TUNED)
    whole: bool = False

    @property
    def serves_all_folds(self) -> bool:
        """Whether one pre-training is enough, as no fold's people are in it."""
        return self.faces == "synthetic"


CONDITIONS = {
    "pixels": Condition(readers=(RIDGE,)),
    "none": Condition(),
    **{
        f"{faces}, {target}": Condition(faces=faces, target=target)
        for target in ("pixels", "difference")
        for faces in ("synthetic", "real", "both")
    },
    "none, as many updates": Condition(readers=(TUNED,), whole=True),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The same for all conditions. videos: of 12 frames, synthetic ones or pieces of real ones, that pre-training draws from."""

    steps: int = 4000
    tune_steps: int = 600
    batch_size: int = 16
    rate: float = 1e-3
    tune_rates: tuple[float, ...] = (5e-4, 2e-3)
    weight_decay: float = 0.05
    videos: int = 2000


@dataclass(frozen=True)
class Corpus:
    """N clips of four labelled frames each, of one video after another.

    clips: uint8 (N, 8, SIZE, SIZE, 3). values: (N, 4, 4) MEASURES of each labelled frame, NaN where the teachers disagree.
    happy: (N, 4) 1 in windows labelled happy, 0 neutral, −1 others. times_s: (N, 4). people, splits, paths: (N,).
    windows: the table.
    """

    clips: Array
    values: Array
    happy: Array
    times_s: Array
    people: Array
    splits: Array
    paths: Array
    windows: pd.DataFrame


@lru_cache(maxsize=1)
def read_corpus(folder: Path) -> Corpus:
    """Read the videos and labels of a corpus. The last clip of a video is filled with its last frame, without labels."""
    cv2.setNumThreads(1)
    table, windows = pd.read_csv(folder / "corpus.csv"), pd.read_csv(folder / "windows.csv")
    teacher = dict(tuple(pd.read_csv(folder / "teacher.csv").sort_values("t_s").groupby("clip")))
    window_of = dict(tuple(windows.groupby("path")))
    parts: dict[str, list[Array]] = {name: [] for name in ("clips", "values", "happy", "times_s")}
    about: dict[str, list[str]] = {"people": [], "splits": [], "paths": []}
    for path, person, split in zip(table["path"], table["subject"], table["split"], strict=True):
        labels = teacher.get(path)
        if labels is None:
            continue
        times = labels["t_s"].to_numpy()
        values = labels[[f"mp_{name}" for name in MEASURES]].to_numpy(np.float64, copy=True)
        values[labels["good"].to_numpy() != 1] = np.nan
        happy = np.full(len(times), -1)
        for window in window_of[path].itertuples() if path in window_of else ():
            if window.label in EXPRESSIONS:
                happy[inside(times, window)] = EXPRESSIONS.index(window.label)
        halfway = times + 0.5 * np.diff(times, append=times[-1] + 0.2)
        with open_video(folder / path) as video:
            pictures = video.read(video.picture_at(np.stack([times, halfway], axis=1).ravel()))
        small = np.stack([cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for each in pictures])
        more = -len(times) % STEPS
        number = (len(times) + more) // STEPS
        parts["clips"].append(
            np.pad(small, ((0, 2 * more), *[(0, 0)] * 3), mode="edge").reshape(number, -1, *small.shape[1:])
        )
        for name, track, filler in (("values", values, np.nan), ("happy", happy, -1), ("times_s", times, np.nan)):
            gap = ((0, more), *[(0, 0)] * (track.ndim - 1))
            filled = np.pad(track, gap, constant_values=filler)
            parts[name].append(filled.reshape(number, STEPS, *track.shape[1:]))
        for name, text in (("people", person), ("splits", split), ("paths", path)):
            about[name] += [str(text)] * number
    joined = {name: np.concatenate(each) for name, each in parts.items()}
    return Corpus(**joined, **{name: np.array(each) for name, each in about.items()}, windows=windows)


def inside(times_s: Array, window: Any) -> Array:
    """Which times are in a window."""
    return (times_s >= window.start_s) & (times_s < window.end_s)


def scored_people(corpus: Corpus, fold: int) -> list[str]:
    """The people that a fold scores; those of "train" are dealt to folds 1 and 2 by the length of their videos."""
    known = corpus.people[corpus.splits == "train"]
    if fold == 0:
        return sorted(set(corpus.people) - set(known))
    names, counts = np.unique(known, return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")]
    return sorted(name for rank, name in enumerate(ranked) if (rank % 4 in (1, 2)) == (fold == 2))


@lru_cache(maxsize=1)
def synthetic_videos(number: int) -> Array:
    """Videos of `svfap synth` with its default spread of faces, light and pose, varied as real ones are."""
    config = RenderConfig(size_px=SIZE, fps=10, num_frames=FRAMES_OF_VIDEO)
    rng = np.random.default_rng(1)
    videos = np.empty((number, FRAMES_OF_VIDEO, SIZE, SIZE, 3), np.uint8)
    for index in range(number):
        frames, _ = render_clip(config, index // len(CLASSES), index, CLASSES[index % len(CLASSES)])
        videos[index] = varied(frames, rng)
    return videos


def real_videos(corpus: Corpus, people: Sequence[str], number: int, seed: int) -> Array:
    """Pieces of the videos of some people; the chance of a person is the square root of how many frames there are."""
    rng = np.random.default_rng([seed, 2])
    tracks: dict[str, list[Array]] = {}
    for path in dict.fromkeys(corpus.paths[np.isin(corpus.people, people)]):
        here = corpus.paths == path
        frames = corpus.clips[here].reshape(-1, *corpus.clips.shape[2:])
        short = max(0, FRAMES_OF_VIDEO - len(frames))
        tracks.setdefault(corpus.people[here][0], []).append(np.pad(frames, ((0, short), *[(0, 0)] * 3), mode="edge"))
    lengths = {name: np.array([len(track) for track in each], float) for name, each in tracks.items()}
    chances = np.sqrt([each.sum() for each in lengths.values()])
    videos = np.empty((number, FRAMES_OF_VIDEO, SIZE, SIZE, 3), np.uint8)
    for index, name in enumerate(rng.choice(list(tracks), number, p=chances / chances.sum())):
        track = tracks[name][rng.choice(len(tracks[name]), p=lengths[name] / lengths[name].sum())]
        first = rng.integers(0, len(track) - FRAMES_OF_VIDEO + 1)
        videos[index] = varied(track[first : first + FRAMES_OF_VIDEO], rng)
    return videos


def varied(frames: Array, rng: np.random.Generator) -> Array:
    """Frames (T, H, W, 3) mirrored at random, and moved by up to `SHIFT` px."""
    flipped = frames[:, :, ::-1] if rng.random() < 0.5 else frames
    padded = np.pad(flipped, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    x, y = rng.integers(0, 2 * SHIFT + 1, 2)
    return padded[:, y : y + frames.shape[1], x : x + frames.shape[2]]


def fitted_on(corpus: Corpus, people: Sequence[str]) -> Array:
    """The clips that readers are fitted on: of each person at most `MOST`, evenly spread over those with labels."""
    labelled = np.isfinite(corpus.values).all(axis=2).sum(axis=1) > 0
    rows = [np.flatnonzero((corpus.people == name) & labelled) for name in people]
    return np.concatenate(
        [each[np.unique(np.linspace(0, len(each) - 1, MOST).astype(int))] for each in rows if len(each)]
    )


def by_step(fit_x: Array, test_x: Array, corpus: Corpus, fit: Array, read: Callable[..., Array]) -> Array:
    """What a reader of time steps gives for each of the test clips: (N, 4 steps, MEASURES and happy).

    fit_x, test_x: (clips, 4, …). read: (x, y, people, test x, num_classes) -> values, or scores of classes.
    """
    people = np.repeat(corpus.people[fit], STEPS)
    flat, queries = (x.reshape(-1, *x.shape[2:]) for x in (fit_x, test_x))
    values, happy = corpus.values[fit].reshape(-1, len(MEASURES)), corpus.happy[fit].ravel()
    known, shown = np.isfinite(values).all(axis=1), happy >= 0
    found = read(flat[known], values[known], people[known], queries, None)
    classes = read(flat[shown], happy[shown], people[shown], queries, len(EXPRESSIONS))
    return np.column_stack([found, classes[:, 1] - classes[:, 0]]).reshape(len(test_x), STEPS, -1)


def probed(model: MaskedAutoencoder, corpus: Corpus, fit: Array, test: Array, reader: str, seed: int) -> Array:
    """The outputs of a linear or an attentive probe for the test clips, (N, 4, 5)."""
    clips = corpus.clips[np.concatenate([fit, test])]
    found = read_tokens(model, clips, sets=("tokens",), device="cpu", precision="fp32", batch_size=64)
    tokens = found.of_steps("tokens", flat=False)
    if reader in AREAS:
        areas, side = AREAS[reader], SIZE // MODEL["patch_size"]
        blocks = tokens.reshape(len(clips), STEPS, areas, side // areas, areas, side // areas, -1)
        tokens = blocks.mean(axis=(3, 5), dtype=np.float32).reshape(len(clips), STEPS, -1)

    def read(x: Array, y: Array, people: Array, queries: Array, num_classes: int | None) -> Array:
        if reader in AREAS:
            return linear_probe(x, y, people, queries, num_classes=num_classes)
        return attentive_probe(x, y, people, queries, num_classes=num_classes, seeds=(seed,))[0]

    return by_step(tokens[: len(fit)], tokens[len(fit) :], corpus, fit, read)


def ridged(corpus: Corpus, fit: Array, test: Array) -> Array:
    """The outputs of the ridge on pixels for the test clips, (N, 4, 5)."""
    frames = corpus.clips[:, ::2].reshape(-1, SIZE, SIZE, 3)
    grey_of = np.array(GREY, np.float32)
    grey = np.stack([cv2.resize(each @ grey_of, (20, 20), interpolation=cv2.INTER_AREA) for each in frames])
    pixels = grey.reshape(len(corpus.clips), STEPS, -1)

    def read(x: Array, y: Array, people: Array, queries: Array, num_classes: int | None) -> Array:
        return linear_probe(x, y, people, queries, num_classes=num_classes)

    return by_step(pixels[fit], pixels[test], corpus, fit, read)


def outputs_of(model: Perceiver, clips: Tensor) -> Tensor:
    """(B, 8, H, W, 3) uint8 -> (B, 4, 5): the head at each time step."""
    return model.head(model.step_features(normalize(clips, model.config.pixel_mean, model.config.pixel_std)))


def tuned(
    source: MaskedAutoencoder,
    corpus: Corpus,
    fit: Array,
    test: Array,
    steps: int,
    rate: float,
    settings: Settings,
    seed: int,
) -> Array:
    """The outputs for the test clips, (N, 4, 5), of an encoder fine-tuned from a model's on the clips `fit`."""
    torch.manual_seed(seed)
    model = create_model("svfap_tiny", "regression", **MODEL, num_outputs=len(MEASURES) + 1, fuse_stages=True)
    assert isinstance(model, Perceiver)
    model.encoder.load_state_dict(source.encoder.state_dict())
    values, happy = corpus.values[fit], torch.from_numpy(corpus.happy[fit])
    centre, scale = np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1))
    wanted = torch.from_numpy((values - centre) / scale).float()
    counts = torch.stack([(happy == index).sum() for index in range(len(EXPRESSIONS))]).clamp(min=1)
    weights = torch.cat([counts.sum() / (len(counts) * counts), torch.zeros(1)])  # the last is that of −1
    rng = np.random.default_rng([seed, 3])
    optimizer = build_optimizer(parameter_groups(model, settings.weight_decay))
    model.train()
    for now in cosine_schedule(rate, rate / 100, 1, steps, 0.1):
        rows = rng.choice(len(fit), settings.batch_size)
        clips = np.stack([varied(corpus.clips[fit[row]], rng) for row in rows])
        outputs, target, class_ = outputs_of(model, torch.from_numpy(clips)), wanted[rows], happy[rows]
        known = target.isfinite()
        loss = F.mse_loss(outputs[..., :-1][known], target[known])
        said = F.binary_cross_entropy_with_logits(outputs[..., -1], class_.clamp(min=0).float(), reduction="none")
        loss = loss + (said * weights[class_]).sum() / max(1, int((class_ >= 0).sum()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        apply_lr(optimizer, float(now))
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        parts = [
            outputs_of(model, torch.from_numpy(corpus.clips[rows]))
            for rows in np.array_split(test, len(test) // 64 + 1)
        ]
    found = torch.cat(parts).double().numpy()
    found[..., :-1] = found[..., :-1] * scale + centre
    return found


def best_tuned(
    source: MaskedAutoencoder, corpus: Corpus, fit: Array, test: Array, steps: int, settings: Settings, seed: int
) -> tuple[float, Array]:
    """The rate with the best mean CCC of frames of a fifth of the training people, and its outputs for the test clips.

    The models are fitted on the other four fifths.
    """
    inner, held_out = (fit[part] for part in group_folds(corpus.people[fit])[0])
    both, found = np.concatenate([held_out, test]), []
    for rate in settings.tune_rates:
        outputs = tuned(source, corpus, inner, both, steps, rate, settings, seed)
        score = scores_of(frame_table(corpus, held_out, outputs[: len(held_out)]))["ccc"].value
        found.append((score, rate, outputs[len(held_out) :]))
    _, rate, outputs = max(found, key=lambda each: each[0])
    return rate, outputs


def frame_table(corpus: Corpus, rows: Array, outputs: Array) -> pd.DataFrame:
    """Labels and outputs (N, 4, 5) of the frames of some clips whose labels are good."""
    good = np.isfinite(corpus.values[rows]).all(axis=2)
    about = {"subject": np.repeat(corpus.people[rows], STEPS), "split": np.repeat(corpus.splits[rows], STEPS)}
    about |= {"path": np.repeat(corpus.paths[rows], STEPS), "t_s": corpus.times_s[rows].ravel()}
    labels = {f"label_{name}": corpus.values[rows][..., k].ravel() for k, name in enumerate(MEASURES)}
    given = {name: outputs[..., k].ravel() for k, name in enumerate((*MEASURES, "happy"))}
    return pd.DataFrame({**about, **labels, **given})[good.ravel()].reset_index(drop=True)


def window_table(corpus: Corpus, frames: pd.DataFrame) -> pd.DataFrame:
    """Labels of the windows of the frames' videos, and the mean outputs of their frames."""
    by_path = dict(tuple(frames.groupby("path")))
    found = []
    for window in corpus.windows.itertuples():
        there = by_path.get(str(window.path))
        if there is None or not (now := inside(there["t_s"].to_numpy(), window)).any():
            continue
        line = {"subject": there["subject"].iloc[0], "split": there["split"].iloc[0]}
        line |= {"label": window.label if window.label in EXPRESSIONS else ""}
        line |= {f"label_{name}": getattr(window, name) for name in MEASURES}
        found.append({**line, **there[now][[*MEASURES, "happy"]].mean()})
    return pd.DataFrame(found)


def scores_of(*runs: pd.DataFrame) -> dict[str, SubjectScore]:
    """The scores of one table of outputs, or the mean scores of the same table of several runs."""
    first = runs[0]
    columns = [f"label_{name}" for name in MEASURES]
    outputs = np.stack([run[list(MEASURES)].to_numpy() for run in runs])
    scores = subject_scores(first[columns].to_numpy(), outputs, first["subject"].to_numpy(), MEASURES)
    if "label" in first and len(set(first["label"]) & set(EXPRESSIONS)) == len(EXPRESSIONS):
        shown = first["label"].isin(EXPRESSIONS).to_numpy()
        classes = (first["label"][shown] == "happy").to_numpy().astype(int)
        said = np.stack([run["happy"].to_numpy()[shown] for run in runs])
        two = np.stack([-said, said], axis=2)
        scores["uar"] = subject_scores(classes, two, first["subject"].to_numpy()[shown], EXPRESSIONS)["uar"]
    return scores


def run(name: str, seed: int, fold: int, readers: Sequence[str], folder: Path, settings: Settings, out: Path) -> Path:
    """One condition in one fold: pre-trained and read; the result is a JSON file of labels and outputs for each reader."""
    condition, file = CONDITIONS[name], out / f"{slug(name)}-{seed}-{fold}.json"
    described = json.loads(json.dumps({"name": name, "seed": seed, "fold": fold, "settings": asdict(settings)}))
    result = {**described, "chosen": {}, "cpu seconds": {}, "readers": {}}
    if file.is_file():
        result = json.loads(file.read_text())
        if {key: result[key] for key in described} != described:
            sys.exit(f"{file}: is of other settings; remove it, or give another --out")
    wanted = [reader for reader in readers if reader in condition.readers and reader not in result["readers"]]
    if not wanted:
        return file
    torch.set_num_threads(1)
    corpus, own_seed = read_corpus(folder), len(FOLDS) * seed + fold
    scored = scored_people(corpus, fold)
    others = sorted(set(corpus.people) - set(scored))
    fit, test = fitted_on(corpus, others), np.flatnonzero(np.isin(corpus.people, scored))
    if wanted != [RIDGE]:
        start = time.process_time()
        first = len(FOLDS) * seed if condition.serves_all_folds else own_seed
        model = pretrained_on(condition, corpus, others, settings, first, encoder_folder(out, name, seed, fold))
        result["cpu seconds"].setdefault("pre-training", time.process_time() - start)
    for reader in wanted:
        start = time.process_time()
        if reader == RIDGE:
            outputs = ridged(corpus, fit, test)
        elif reader == TUNED:
            steps = settings.tune_steps + (settings.steps if condition.whole else 0)
            result["chosen"]["rate"], outputs = best_tuned(model, corpus, fit, test, steps, settings, own_seed)
        else:
            outputs = probed(model, corpus, fit, test, reader, own_seed)
        result["cpu seconds"][reader] = time.process_time() - start
        frames = frame_table(corpus, test, outputs)
        result["readers"][reader] = {
            "frames": frames.drop(columns=["path", "happy"]).round(5).to_dict("list"),
            "windows": window_table(corpus, frames).round(5).to_dict("list"),
        }
        write_atomically(file, json.dumps(result))
    return file


def encoder_folder(out: Path, name: str, seed: int, fold: int) -> Path:
    """Where the pre-trained encoder of a condition is kept."""
    return out / "encoders" / (f"{slug(name)}-{seed}" + ("" if CONDITIONS[name].serves_all_folds else f"-{fold}"))


def pretrained_on(
    condition: Condition, corpus: Corpus, people: Sequence[str], settings: Settings, seed: int, folder: Path
) -> MaskedAutoencoder:
    """The model of a condition, pre-trained on synthetic faces, on some people of the corpus, or on both; kept in `folder`."""
    variant = Variant(
        model={**SHAPE, "target": condition.target}, steps=settings.steps if condition.faces else 0,
        batch_size=settings.batch_size, rate=settings.rate, weight_decay=settings.weight_decay,
    )  # fmt: skip
    if not condition.faces:
        return pretrained(variant, {}, seed)[0]
    seen = [] if condition.serves_all_folds else list(people)
    described = json.dumps([condition.faces, asdict(variant), settings.videos, seen, seed], default=list)
    note = folder / "pretraining.json"
    if note.is_file() and note.read_text() == described:
        return MaskedAutoencoder.from_pretrained(folder)
    videos = []
    if condition.faces in ("synthetic", "both"):
        videos.append(synthetic_videos(settings.videos))
    if condition.faces in ("real", "both"):
        videos.append(real_videos(corpus, people, settings.videos, seed))
    part = Part(np.concatenate(videos), np.empty(0), np.empty(0), {})
    model = pretrained(variant, {"pretrain": part}, seed)[0]
    model.save_pretrained(folder)
    write_atomically(note, described)
    return model


def losses(out: Path, names: Sequence[str], folds: Sequence[int], folder: Path) -> pd.DataFrame:
    """How far the pre-trainings in `out` got: loss on clips of the corpus, beside predicting 0 (no change; a tubelet's mean)."""
    corpus, rows = read_corpus(folder), []
    for name, fold in product(names, folds):
        encoder = encoder_folder(out, name, 0, fold)
        if not (encoder / "pretraining.json").is_file():
            continue
        model = MaskedAutoencoder.from_pretrained(encoder).eval()
        unseen = set(scored_people(corpus, fold))
        for whose, people in (("training people", set(corpus.people) - unseen), ("people never seen", unseen)):
            videos = real_videos(corpus, sorted(people), LOSS_CLIPS, fold)[:, :NUM_FRAMES]
            clips = normalize(torch.from_numpy(videos), model.config.pixel_mean, model.config.pixel_std)
            mask = tube_mask(len(clips), model.config, generator=torch.Generator().manual_seed(fold))
            with torch.inference_mode():
                loss, trivial = model.loss(clips, mask), model.targets(clips, mask).square().mean()
            rows.append((name, whose, loss.item(), trivial.item()))
    if not rows:
        sys.exit(f"{out}: holds no pre-training of these conditions and folds")
    table = pd.DataFrame(rows, columns=["pre-trained on", "clips of", "loss", "of predicting 0"])
    means = table.groupby(["pre-trained on", "clips of"], sort=False).mean()
    means["less by, %"] = 100 * (1 - means["loss"] / means["of predicting 0"])
    return means.round({"loss": 3, "of predicting 0": 3, "less by, %": 1}).reset_index()


def results_of(out: Path) -> list[dict[str, Any]]:
    """The runs that are there."""
    results = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    if len({json.dumps(each["settings"]) for each in results}) > 1:
        sys.exit(f"{out}: has runs of different settings")
    return results


def about(out: Path, names: Sequence[str], split: str | None = None, folds: Sequence[int] = FOLDS) -> str:
    """What the tables are of, as Markdown."""
    results, runs = results_of(out), finished(out, names, folds)
    settings = results[0]["settings"]
    lines = [
        "Real faces, teacher labels (not human ones). Pre-training: {steps} updates; fine-tuning: {tune_steps} updates for each "
        "of the rates {tune_rates}; {batch_size} clips each.".format(**settings)
    ]
    for (name, reader), by_level in runs.items():
        frames, windows = (by_level[level][0] for level in ("frames", "windows"))
        if split:
            frames, windows = frames[frames["split"] == split], windows[windows["split"] == split]
        costs = [one["cpu seconds"] for one in results if one["name"] == name]
        spent = {what: [each[what] for each in costs if what in each] for what in ("pre-training", reader)}
        lines.append(
            f"- {name}, {reader}: {frames['subject'].nunique()} people, {len(frames)} frames, {len(windows)} windows, "
            f"seeds: {len(by_level['frames'])}, CPU seconds in each fold: "
            + ", ".join(f"{what} {np.mean(values):.0f}" for what, values in spent.items() if values)
        )
    return "\n".join(lines)


def finished(
    out: Path, names: Sequence[str], folds: Sequence[int] = FOLDS
) -> dict[tuple[str, str], dict[str, list[pd.DataFrame]]]:
    """(condition, reader) -> "frames" and "windows" -> a table of all people for each seed of which all folds are done."""
    results = results_of(out)
    done = {(each["name"], each["seed"], each["fold"]): each["readers"] for each in results}
    found: dict[tuple[str, str], dict[str, list[pd.DataFrame]]] = {}
    for name, seed in product(names, sorted({seed for _, seed, _ in done})):
        parts_of = [done.get((name, seed, fold), {}) for fold in folds]
        for reader, level in product(CONDITIONS[name].readers, ("frames", "windows")):
            if any(reader not in each for each in parts_of):
                continue
            parts = [pd.DataFrame(each[reader][level]) for each in parts_of]
            whole = pd.concat(parts, ignore_index=True)
            found.setdefault((name, reader), {}).setdefault(level, []).append(whole)
    return found


def tables(
    out: Path, names: Sequence[str], split: str | None = None, folds: Sequence[int] = FOLDS
) -> dict[str, pd.DataFrame]:
    """Tables of CCC per frame and per window, over all and within people, with 95% intervals over people.

    split: only its people. The last columns are paired differences of the mean to "none", read by the same reader, and to the
    ridge on pixels.
    """
    runs = finished(out, names, folds)
    if not runs:
        sys.exit(f"{out}: no condition is finished in all folds")
    found = {}
    for level in ("frames", "windows"):
        scores = {}
        for row, by_level in runs.items():
            kept = [each[each["split"] == split] if split else each for each in by_level[level]]
            scores[row] = scores_of(*kept)
        for key, what in (("ccc", "all"), ("ccc_within_people", "within people")):
            ridge = scores.get(("pixels", RIDGE))
            lines = [_line(row, each, scores.get(("none", row[1])), ridge, key) for row, each in scores.items()]
            trivial = {"pre-trained on": "", "read by": "constant", "mean": "0.00"} | dict.fromkeys(MEASURES, "0.00")
            found[f"{level}, {what}"] = pd.DataFrame(
                [*lines, trivial | ({"UAR, %": "50.0"} if "UAR, %" in lines[0] else {})]
            )
    return found


def _line(
    row: tuple[str, str], scores: Mapping[str, SubjectScore], none: Mapping[str, SubjectScore] | None,
    ridge: Mapping[str, SubjectScore] | None, key: str,
) -> dict[str, str]:  # fmt: skip
    name, reader = row
    line = {"pre-trained on": "" if reader == RIDGE else name, "read by": reader, "mean": _cell(interval(scores[key]))}
    line |= {each: _cell(interval(scores[f"{key}_{each}"])) for each in MEASURES}
    reference = none if name not in ("none", "pixels") else None
    line["mean − none"] = _cell(interval(scores[key], reference[key]), sign="+") if reference else ""
    line["mean − ridge"] = _cell(interval(scores[key], ridge[key]), sign="+") if ridge and reader != RIDGE else ""
    if "uar" in scores and key == "ccc":
        line["UAR, %"] = _cell(interval(scores["uar"]), percent=True)
        line["UAR − none"] = _cell(interval(scores["uar"], reference["uar"]), "+", True) if reference else ""
    return line


def _cell(found: Interval, sign: str = "", percent: bool = False) -> str:
    factor, form = (100, ".1f") if percent else (1, ".2f")
    value, low, high = (f"{factor * each:{sign}{form}}".replace("-", "−") for each in found)
    return f"{value} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conditions", nargs="*", help="default: all")
    parser.add_argument("--corpus", type=Path, help="folder of the corpus")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each condition in each fold, with seeds 0, 1, …")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one process and thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/real_faces"))
    parser.add_argument("--steps", type=int, default=Settings.steps, help="updates of pre-training")
    parser.add_argument("--tune_steps", type=int, default=Settings.tune_steps, help="updates of fine-tuning")
    parser.add_argument(
        "--tune_rates", nargs="+", type=float, default=Settings.tune_rates, help="of fine-tuning, to choose from"
    )
    parser.add_argument("--videos", type=int, default=Settings.videos, help="synthetic videos, and pieces of real ones")
    parser.add_argument("--readers", nargs="+", choices=READERS, help="default: all")
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, default=FOLDS, help="default: all")
    parser.add_argument("--split", help="with --table: show the scores of this split's people alone")
    parser.add_argument(
        "--losses", action="store_true", help="only print how far the pre-trainings that are done got, seed 0"
    )
    parser.add_argument("--list", action="store_true", help="show the conditions")
    parser.add_argument("--table", action="store_true", help="only print the tables of what is done")
    args = parser.parse_args()
    names = args.conditions or list(CONDITIONS)
    if unknown := [name for name in names if name not in CONDITIONS]:
        parser.error(f"{unknown[0]!r} is no condition; --list shows them")
    for reader in args.readers or ():
        if not any(reader in CONDITIONS[name].readers for name in names):
            known = ", ".join(repr(name) for name, condition in CONDITIONS.items() if reader in condition.readers)
            parser.error(f"--readers: {reader!r} reads none of the chosen conditions; add one of {known}")
    if args.list:
        print(*CONDITIONS, sep="\n")
        return
    if (args.losses or not args.table) and (args.corpus is None or not (args.corpus / "corpus.csv").is_file()):
        where = "" if args.corpus is None else f"{args.corpus} has no corpus.csv; "
        parser.error(f"--corpus: {where}give the folder with corpus.csv, teacher.csv and windows.csv")
    if args.losses:
        print(to_markdown(losses(args.out, names, args.folds, args.corpus)))
        return
    if not args.table:
        make_folder(args.out)
        os.environ["OMP_NUM_THREADS"] = "1"
        settings = Settings(
            steps=args.steps, tune_steps=args.tune_steps, tune_rates=tuple(args.tune_rates), videos=args.videos,
        )  # fmt: skip
        rest = (args.readers or READERS, args.corpus, settings, args.out)
        wanted = [(n, s, f, *rest) for s, n, f in product(range(args.seeds), names, args.folds)]
        do_all(run, wanted, args.jobs)
    found = tables(args.out, names, args.split, args.folds)
    print(f"{about(args.out, names, args.split, args.folds)}\n")
    for title, table in found.items():
        print(f"CCC, {title}\n\n{to_markdown(table.fillna(''))}\n")


if __name__ == "__main__":
    main()
