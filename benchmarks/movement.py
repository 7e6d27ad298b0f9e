"""Train the model `movement` that comes with the package, and score it on people that it never saw.

    python benchmarks/movement_landmarks.py CORPUS LANDMARKS       # in an environment with MediaPipe, see there
    python benchmarks/movement.py CORPUS LANDMARKS --out OUT       # trains, and scores validation people on the way
    python benchmarks/movement.py CORPUS LANDMARKS --out OUT --test   # scores the test people, at the end, once

CORPUS holds face crops of 160 px, `corpus.csv` (path, subject, split, fps, licence, …) and `teacher.csv` with what MediaPipe
FaceMesh measured five times a second. Clips whose licence forbids commercial use (NC) are left out. The network is the
package's own, with a convolutional stem and a frame as one token; beside the five outputs it learns all landmarks, by a head
that is dropped at the end. Pictures are moved, turned, scaled and bent, and the labels are measured on the moved landmarks, so
that a few people make many faces. At the end, when settings are chosen and the scores of validation people are known, these
people are learned from too. OUT/state.pt holds what an interrupted run continues from, OUT/model the model, OUT/before the model
without the validation people.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from svfap.data.augment import normalize, standardize
from svfap.data.crops import fit_frames
from svfap.data.video import open_video
from svfap.evaluation.confidence import Interval, intervals, subject_scores
from svfap.model.config import ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, moving_average, parameter_groups
from svfap.weights.folder import load_model

MEANINGS = {
    "mouth_opening": "gap between the lips at the middle of the mouth, divided by the distance of the eyes' centres; 0 is shut",
    "smile_width": "distance of the mouth's corners, divided by the distance of the eyes' centres; smiling widens it",
    "brow_height": "distance of each brow from the centre of its eye, divided by the distance of the eyes' centres; mean of both",
    "eye_opening": "height of each eye's opening divided by its width, mean of both; 0 is shut",
    "blink": "estimate of how far the eyes are closed: 0 open as usual in the training people, not in this person; 1 shut",
}
NAMES = tuple(MEANINGS)
TEACHER = ("mp_mouth_open", "mp_smile_width", "mp_brow_height", "mp_eye_open")
PIXELS, SIZE, EVERY = 160, 128, 2  # side of the clips, of the model's input; every second frame is learned from
BATCH, RATE, LAST_RATE, DECAY, AVERAGE, WARMUP = 32, 1.5e-3, 5e-4, 0.05, 0.995, 0.02
SAVE_EVERY = 500
EYES = ((33, 133), (362, 263))  # corners: numbers of FaceMesh's landmarks
LIDS = (((160, 144), (159, 145), (158, 153)), ((387, 373), (386, 374), (385, 380)))
BROWS = ((66, 105), (296, 334))
Array = NDArray[Any]


@dataclass(frozen=True)
class Frames:
    """N frames: pixels (N, 160, 160, 3) uint8, landmarks (N, 478, 2) as fractions of the frame or empty, teacher (N, 4) with NaN
    where it did not look, people (N,) names."""

    pixels: Array
    landmarks: Array
    teacher: Array
    people: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path, help="folder with corpus.csv and teacher.csv")
    parser.add_argument("landmarks", type=Path, help="folder that movement_landmarks.py has written")
    parser.add_argument("--out", type=Path, default=Path("movement"), help="folder for the state and the model")
    parser.add_argument("--steps", type=int, default=6000, help=f"of {BATCH} frames each")
    parser.add_argument(
        "--last_steps", type=int, default=1500, help="further ones that learn from validation people too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--test", action="store_true", help="score the test people with the model in OUT, and keep the scores in it"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out / "model"
    if options.test:
        model = load(folder)
        frames = read(options.corpus, "test")
        found = report(model, frames, "test")
        keys = ("ccc", "ccc_within_people")
        known = {
            "measured_on": f"{len(frames.people)} frames of {len(set(frames.people))} people that no training saw; "
            "agreement with MediaPipe FaceMesh, not with people",
            "scores": {name: {key: [round(v, 2) for v in found[f"{key}_{name}"]] for key in keys} for name in NAMES},
        }
        model.config = replace(model.config, provenance={**model.config.provenance, **known})
        save(model, folder)
    else:
        train(options)
        report(load(options.out / "before"), read(options.corpus, "val"), "val")


# ---------------------------------------------------------------- data


def read(corpus: Path, split: str, landmarks: Path | None = None) -> Frames:
    """The frames of a part: with landmarks, every second one in which they were found; else those that the teacher measured."""
    clips, teacher = pd.read_csv(corpus / "corpus.csv"), pd.read_csv(corpus / "teacher.csv")
    clips = clips[(clips["split"] == split) & ~clips["licence"].str.contains("NC")]
    parts = []
    for path, person, fps in zip(clips["path"], clips["subject"], clips["fps"], strict=True):
        with open_video(corpus / path) as video:
            frames = fit_frames(video.read(range(video.num_frames)), PIXELS)
        rows = teacher[(teacher["clip"] == path) & (teacher["good"] == 1)]
        measured = np.full((len(frames), len(TEACHER)), np.nan, np.float32)
        measured[(rows["t_s"] * fps).round().astype(int).clip(0, len(frames) - 1)] = rows[list(TEACHER)]
        points = np.zeros((len(frames), 0, 2), np.float32)
        chosen = np.flatnonzero(np.isfinite(measured[:, 0]))
        if landmarks is not None:
            points = np.load((landmarks / path).with_suffix(".npy"))
            chosen = np.arange(0, len(frames), EVERY)
            chosen = chosen[np.isfinite(points[chosen, 0, 0])]
        parts.append((frames[chosen], points[chosen], measured[chosen], np.full(len(chosen), person, object)))
    return Frames(*map(np.concatenate, zip(*parts, strict=True)))


def closure(eye_opening: Array, people: Array) -> Array:
    """`blink` from the opening of the eyes: (N,) -> (N,), 0 to 1."""
    usual = pd.Series(eye_opening).groupby(people).transform("median").to_numpy()
    return np.clip(1 - eye_opening / usual, 0, 1).astype(np.float32)


def ratios(points: Tensor) -> Tensor:
    """Mouth opening, smile width, brow height and eye opening of landmarks, in proportions of the face: (N, 478, 2) -> (N, 4)."""

    def apart(a: int, b: int) -> Tensor:
        return (points[:, a] - points[:, b]).norm(dim=-1)

    centres = [points[:, eye].mean(1) for eye in EYES]
    between = (centres[0] - centres[1]).norm(dim=-1)
    brows = [(points[:, brow].mean(1) - centre).norm(dim=-1) for brow, centre in zip(BROWS, centres, strict=True)]
    eyes = [sum(apart(*lids) for lids in pairs) / (3 * apart(*eye)) for pairs, eye in zip(LIDS, EYES, strict=True)]
    values = (apart(13, 14) / between, apart(61, 291) / between, sum(brows) / 2 / between, sum(eyes) / 2)
    return torch.stack(values, dim=1)  # type: ignore[arg-type]


def upright(points: Tensor) -> Tensor:
    """Landmarks in units of the distance of the eyes, from the middle between them, with level eyes: the same shape."""
    left, right = (points[:, eye].mean(1) for eye in EYES)
    along = right - left
    size = along.norm(dim=-1, keepdim=True)
    x, y = (along / size)[:, :1], (along / size)[:, 1:]
    rest = (points - (left + right)[:, None] / 2) / size[:, None]
    return torch.stack([rest[..., 0] * x + rest[..., 1] * y, rest[..., 1] * x - rest[..., 0] * y], dim=-1)


def mirrored(points: Tensor) -> Tensor:
    """For each landmark the number of that on the other side of the face, from the mean face (478, 2)."""
    other = points * torch.tensor([-1.0, 1.0])
    other[:, 0] += 2 * points[[33, 133, 362, 263], 0].mean()
    return torch.from_numpy(linear_sum_assignment(torch.cdist(points, other).numpy())[1])


# ---------------------------------------------------------------- augmentation


def moved(pixels: Tensor, points: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B, 3, H, W) moved, turned, scaled, bent and mirrored, (B, 3, SIZE, SIZE), with their landmarks (B, 478, 2), and
    which are mirrored (B,); of these the landmarks' numbers are still those of the other side."""
    number = len(pixels)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=draw) - 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    scale, aspect, angle = torch.exp(0.2 * uniform(number)), torch.exp(0.06 * normal(number)), 0.14 * normal(number)
    mirror, shift = uniform(number) < 0, 0.1 * uniform(number, 2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    skew = torch.eye(2).repeat(number, 1, 1)
    skew[:, 0, 1] = 0.03 * normal(number)
    sides = torch.stack([torch.where(mirror, -1.0, 1.0) * scale * aspect, scale / aspect], 1)
    matrix = turn @ torch.diag_embed(sides) @ skew
    # Where a pixel of the new picture comes from: matrix @ place + bend(place) + shift, with places from -1 to 1.
    bend = F.interpolate(0.025 * normal(number, 2, 5, 5), (SIZE, SIZE), mode="bicubic", align_corners=True)
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    origin = torch.einsum("bij,hwj->bhwi", matrix, places) + bend.permute(0, 2, 3, 1) + shift[:, None, None]
    new = F.grid_sample(pixels, origin, padding_mode="border", align_corners=False)
    # The inverse, for landmarks, by iteration.
    inverse, old = torch.linalg.inv(matrix), 2 * points - 1 - shift[:, None]
    place = torch.einsum("bij,bnj->bni", inverse, old)
    for _ in range(3):
        here = F.grid_sample(bend, place[:, :, None].clamp(-1, 1), padding_mode="border", align_corners=False)
        place = torch.einsum("bij,bnj->bni", inverse, old - here[..., 0].transpose(1, 2))
    return new, (place + 1) / 2, mirror


def recoloured(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Frames (B, 3, H, W) of levels 0 to 255 under other light, some grey, blurred, noisy or partly hidden."""
    number, _, height, width = pixels.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    def some(part: float) -> Tensor:
        return torch.rand(number, 1, 1, 1, generator=draw) < part

    light = F.interpolate(0.25 * normal(number, 1, 3, 3), (height, width), mode="bicubic", align_corners=True)
    gain = torch.exp(0.12 * normal(number, 3, 1, 1) + 0.2 * normal(number, 1, 1, 1))
    pixels = (pixels / 255).clamp(1e-3, 1) ** torch.exp(0.35 * normal(number, 1, 1, 1))
    pixels = pixels * gain * torch.exp(light * some(0.6))
    pixels = torch.where(some(0.2), pixels.mean(1, keepdim=True), pixels)
    for one, blur, hide in zip(pixels, some(0.35), some(0.25), strict=True):
        if blur:
            factor = 0.35 + 0.6 * float(torch.rand(1, generator=draw))
            small = F.interpolate(one[None], scale_factor=factor, mode="bilinear", antialias=True)
            one.copy_(F.interpolate(small, (height, width), mode="bilinear")[0])
        if hide:
            high, wide = (int(8 + 0.3 * height * u) for u in torch.rand(2, generator=draw))
            top, left = (int((height - 8) * u) for u in torch.rand(2, generator=draw))
            one[:, top : top + high, left : left + wide] = torch.rand(3, 1, 1, generator=draw)
    noisy = number // 3
    pixels[:noisy] += 0.06 * torch.rand(noisy, 1, 1, 1, generator=draw) * normal(noisy, 3, height, width)
    return pixels.clamp_(0, 1).mul_(255)


# ---------------------------------------------------------------- training


def train(options: argparse.Namespace) -> None:
    """Writes OUT/before and OUT/model: the moving average of the weights. Continues from OUT/state.pt if it is there."""
    torch.manual_seed(options.seed)
    val, both = (
        read(options.corpus, "val"),
        [read(options.corpus, name, options.landmarks) for name in ("train", "val")],
    )
    num_train = len(both[0].people)
    frames = Frames(*(np.concatenate([getattr(part, each.name) for part in both]) for each in fields(Frames)))
    points, own = torch.from_numpy(frames.landmarks), ratios(torch.from_numpy(frames.landmarks))
    # Ours differ a little from the teacher's: scaled and moved so that means and deviations on training frames are equal.
    known = np.isfinite(frames.teacher[:, 0]) & (np.arange(len(own)) < num_train)
    theirs, ours = torch.from_numpy(frames.teacher[known]), own[known]
    gain = theirs.std(0) / ours.std(0)
    offset = theirs.mean(0) - gain * ours.mean(0)
    for k, name in enumerate(TEACHER):
        print(f"{name}: r = {np.corrcoef(ours[:, k], theirs[:, k])[0, 1]:.3f} with the teacher, training frames")
    blink = torch.from_numpy(closure((own * gain + offset)[:, 3].numpy(), frames.people))
    labels = torch.cat([own * gain + offset, blink[:, None]], 1)
    mean, deviation = labels[:num_train].mean(0), labels[:num_train].std(0)
    model = Perceiver(model_config(deviation, mean))
    nn.init.normal_(model.head.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    dense = nn.Linear(model.config.embed_dim, 4 * points.shape[1])  # landmarks in the picture, and upright
    nn.init.normal_(dense.weight, std=0.01)
    groups = parameter_groups(model, DECAY)
    groups.append({"params": [*dense.parameters()], "names": ["dense"], "weight_decay": DECAY, "lr_scale": 1.0})
    optimizer, average = build_optimizer(groups), moving_average(model, AVERAGE)
    rates = cosine_schedule(RATE, 1e-5, 1, options.steps, WARMUP)
    rates = np.append(rates, cosine_schedule(LAST_RATE, 1e-5, 1, options.last_steps, WARMUP))
    middle = points[:num_train].mean(0)
    other, shape = mirrored(middle), upright(points[:num_train])
    usual, varies = shape.mean(0), shape.std(0).mean()
    # People with few frames count more, and so do closed eyes.
    counts = pd.Series(frames.people).groupby(frames.people).transform("size").to_numpy()
    share = (1 + 3 * blink.numpy()) / counts**0.5

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(options.seed * 10**6 + step)
        part = num_train if step < options.steps else len(share)
        chances = share[:part] / share[:part].sum()
        chosen = np.random.default_rng((options.seed, step)).choice(part, BATCH, p=chances)
        pixels = torch.from_numpy(frames.pixels[chosen]).permute(0, 3, 1, 2).float()
        pixels, place, mirror = moved(pixels, points[chosen], draw)
        place[mirror] = place[mirror][:, other]
        target = torch.cat([ratios(place) * gain + offset, blink[chosen, None]], 1)
        targets = torch.cat([((place - middle) / 0.06).flatten(1), ((upright(place) - usual) / varies).flatten(1)], 1)
        clips = standardize(recoloured(pixels, draw)[:, :, None], model.config.pixel_mean, model.config.pixel_std)
        return clips, (target - mean) / deviation, targets

    state_file, first, losses = options.out / "state.pt", 0, []
    parts = {"model": model, "dense": dense, "average": average, "optimizer": optimizer}
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])  # type: ignore[attr-defined]
    begun = time.process_time()
    for step in range(first, len(rates)):
        clips, target, targets = batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(clips)
        outputs = model.head(features)
        parts_of_loss = (
            F.smooth_l1_loss(outputs, target, beta=0.5),
            F.smooth_l1_loss(dense(features), targets, beta=0.5),
        )
        sum(parts_of_loss).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        apply_lr(optimizer, float(rates[step]))
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        losses.append([loss.item() for loss in parts_of_loss])
        if (step + 1) % SAVE_EVERY == 0 or step + 1 in (options.steps, len(rates)):
            state = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
            torch.save({**state, "step": step + 1}, state_file.with_suffix(".new"))
            state_file.with_suffix(".new").replace(state_file)
            shown = ""
            if step < options.steps:
                save(average.module, options.out / "before")
                found = scores(predict(average.module, val.pixels), val)
                pairs = ((found[f"ccc_{name}"].value, found[f"ccc_within_people_{name}"].value) for name in NAMES)
                shown = "val " + " ".join(f"{over_all:.2f}/{within:.2f}" for over_all, within in pairs)
            loss = "/".join(f"{value:.3f}" for value in np.mean(losses[-SAVE_EVERY:], axis=0))
            print(f"{step + 1} {time.process_time() - begun:.0f} s loss {loss} {shown}", flush=True)
    save(average.module, options.out / "model")


def model_config(scale: Tensor, offset: Tensor) -> ModelConfig:
    return ModelConfig(
        preset="movement", task="regression", img_size=SIZE, num_frames=1, patch_size=SIZE, tubelet_size=1, stem="conv",
        standardize_clips=True, embed_dim=256, num_heads=4, stage_depths=(1,), frame_level=True, sampling_stride=1,
        num_outputs=len(NAMES), label_names=NAMES, reads="facial movement", meanings=tuple(MEANINGS.values()),
        output_scale=tuple(scale.tolist()), output_offset=tuple(offset.tolist()), face_crop={"margin": 0.3, "align": False},
        provenance={
            "summary": "the geometry of mouth, brows and eyes in each frame; not emotion",
            "licence": "MIT",
            "dataset": "face clips of 45 people under AFL-3.0, CC BY 4.0, MIT and Apache-2.0, labelled by MediaPipe FaceMesh",
        },
    )  # fmt: skip


# ---------------------------------------------------------------- scores


@torch.inference_mode()
def predict(model: nn.Module, pixels: Array) -> Array:
    """(N, 160, 160, 3) uint8 -> (N, 5), as `svfap predict --faces none` does."""
    config: ModelConfig = model.config  # type: ignore[assignment]
    model.eval()
    outputs = [
        model(normalize(torch.from_numpy(fit_frames(part, SIZE))[:, None], config.pixel_mean, config.pixel_std))[:, 0]
        for part in np.array_split(pixels, math.ceil(len(pixels) / 128))
    ]
    model.train()
    return torch.cat(outputs).numpy()


def scores(outputs: Array, frames: Frames) -> dict[str, Interval]:
    """Agreement with the teacher, with intervals over people."""
    target = np.column_stack([frames.teacher, closure(frames.teacher[:, 3], frames.people)])
    return intervals(subject_scores(target, outputs, frames.people, NAMES))


def report(model: Perceiver, frames: Frames, part: str) -> dict[str, Interval]:
    """The scores of a part, which are printed."""
    found = scores(predict(model, frames.pixels), frames)
    print(f"\n{part}: {len(set(frames.people))} people, {len(frames.people)} frames\n\n{markdown(found)}")
    return found


def markdown(found: dict[str, Interval]) -> str:
    lines = ["| | CCC | CCC within people | r |", "| --- | ---: | ---: | ---: |"]
    for name in NAMES:
        cells = (found[f"{key}_{name}"] for key in ("ccc", "ccc_within_people", "pcc"))
        lines.append(f"| {name} | " + " | ".join(f"{v:.2f} ({low:.2f} to {high:.2f})" for v, low, high in cells) + " |")
    return "\n".join(lines)


def save(model: Perceiver, folder: Path) -> None:
    """A model folder; the weights as float16, which changes outputs by less than a thousandth."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.config = replace(model.config, provenance={**model.config.provenance, "parameters": parameters})
    folder.mkdir(parents=True, exist_ok=True)
    model.config.write(folder)
    save_file(
        {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors"
    )


def load(folder: Path) -> Perceiver:
    model = load_model(folder)
    assert isinstance(model, Perceiver)
    return model


if __name__ == "__main__":
    main()
