"""Every setting of `svfap pretrain` and `svfap finetune` has its effect on a run, and none that it should not have."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from observe import Effect, check, observe_training, watching, write_material
from stopped_runs import stopped_in_step
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import svfap
from svfap.data import clip_dataset
from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import Manifest
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.model import layers
from svfap.train import head_config
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import PretrainTask, pretrain
from svfap.train.run_folder import RunFolder
from svfap.train.tracking import SERVICES, _Client

# One epoch, with warm-up in a part of it. What validation must not change is seen in the epoch after it: `TWO`.
SHARED = dict(preset="svfap_debug", precision="fp32", num_workers=0, sampling_stride=1, epochs=1, warmup_epochs=0.5)
TWO = {"epochs": 2, "warmup_epochs": 1.0}
FINETUNE = {**SHARED, "split": "train", "val_split": "val", "batch_size": 4}
PRETRAIN = {**SHARED, "split": "train", "batch_size": 6, "base_lr": 0.05, "previews": 0}
SMALL = {"model": {"img_size": 32, "stage_depths": (1, 1, 1)}}
REGRESSION = {"task": "regression", "dimensions": ["valence", "arousal"]}
FRAMES = {**REGRESSION, "frame_level": True}
EXPRESSION = {"task": "classification"}
# The same clips for every step of training, before augmentation is random.
PLAIN = dict(
    rand_augment=False, erase_rate=0.0, flip_rate=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0, drop_path_rate=0.0
)
LAST = PLAIN | TWO | {"trainable": "last:1"}

FINETUNE_EFFECTS: dict[str, Effect] = {
    "manifest": Effect({}, {"manifest": "other.csv"}, ("losses",)),
    "root": Effect({}, {"root": "elsewhere"}, ("first_clips", "losses"), ("first_weights",)),
    "split": Effect({}, {"split": "val", "val_split": "train"}, ("num_steps", "first_clips")),
    "fraction": Effect({}, {"fraction": 0.5}, ("num_steps", "messages")),
    "preset": Effect(SMALL, {"preset": "svfap_tiny", **SMALL}, ("model", "first_weights")),
    "model": Effect({}, {"model": {"embed_dim": 16}}, ("model", "first_weights"), ("rates",)),
    "sampling_stride": Effect(PLAIN, {**PLAIN, "sampling_stride": 2}, ("first_clips", "model"), ("first_weights",)),
    "fps": Effect(PLAIN, {**PLAIN, "fps": 12.5}, ("first_clips", "validated_clips", "model"), ("first_weights",)),
    "frames_fps": Effect(
        {**PLAIN, "manifest": "frames.csv", "fps": 25.0, "frames_fps": 25.0},
        {**PLAIN, "manifest": "frames.csv", "fps": 25.0, "frames_fps": 50.0},
        ("first_clips", "validated_clips"),
        ("first_weights", "model"),
    ),
    "invalid_marks": Effect(
        {**FRAMES, "manifest": "per_frame.csv"},
        {**FRAMES, "manifest": "per_frame.csv", "invalid_marks": [0.25]}, ("losses",), ("first_clips", "first_weights")),
    "epochs": Effect({}, {"epochs": 3}, ("num_steps", "rates"), ("first_clips", "first_loss")),
    "warmup_epochs": Effect({}, {"warmup_epochs": 0.0}, ("rates", "weights"), ("first_loss", "num_steps")),
    "batch_size": Effect({}, {"batch_size": 6}, ("num_steps", "rates", "first_batch_size")),
    "repeats": Effect({}, {"repeats": 2}, ("num_steps", "losses"), ("first_batch_size",)),
    "accumulate_steps": Effect(
        {}, {"accumulate_steps": 2}, ("num_forwards", "first_batch_size"), ("num_steps", "rates", "first_weights")
    ),
    "base_lr": Effect({}, {"base_lr": 2e-3}, ("rates", "weights"), ("first_loss", "first_norm")),
    "min_lr": Effect(TWO, {**TWO, "min_lr": 5e-4}, ("rates", "last_weights"), ("first_loss", "first_norm")),
    "weight_decay": Effect({}, {"weight_decay": 0.5}, ("decay", "weights"), ("first_loss", "first_norm", "rates")),
    "betas": Effect({}, {"betas": (0.5, 0.9)}, ("betas", "weights"), ("first_loss", "first_norm", "rates")),
    "clip_grad": Effect({}, {"clip_grad": 0.01}, ("last_weights",), ("first_loss", "first_norm", "rates")),
    "ema_decay": Effect(TWO, {**TWO, "ema_decay": 0.9}, ("weights", "validated"), ("losses", "last_weights")),
    "precision": Effect({}, {"precision": "bf16"}, ("losses",), ("first_weights", "first_clips", "rates")),
    "seed": Effect({}, {"seed": 1}, ("first_clips", "first_weights", "losses"), ("rates",)),
    "task": Effect({}, {"task": "regression"}, ("model", "losses", "validation")),
    "label_names": Effect({}, {"label_names": ["sad", "neutral", "happy"]}, ("model", "losses"), ("first_clips",)),
    "dimensions": Effect(REGRESSION, {**REGRESSION, "dimensions": ["arousal"]}, ("model", "losses")),
    "output_activation": Effect(
        REGRESSION, {**REGRESSION, "output_activation": "sigmoid"}, ("model", "losses"), ("first_clips", "first_weights")
    ),
    "frame_level": Effect(REGRESSION, FRAMES, ("model", "losses", "validation"), ("first_clips",)),
    "heads": Effect(
        {"heads": {"expression": EXPRESSION, "affect": REGRESSION}},
        {"heads": {"expression": EXPRESSION, "affect": {**REGRESSION, "weight": 0.1}}},
        ("losses", "last_weights"),
        ("first_clips", "first_weights", "model"),
    ),
    "best_by": Effect(
        {**TWO, "heads": {"expression": EXPRESSION, "affect": REGRESSION}},
        {**TWO, "heads": {"expression": EXPRESSION, "affect": REGRESSION}, "best_by": "affect"},
        ("chosen_by",),
        ("losses", "last_weights"),
    ),
    "by_group": Effect({**TWO, "by_group": True}, {**TWO, "by_group": False}, ("validation",), ("losses", "last_weights")),
    "val_manifest": Effect(
        {**TWO, "val_split": None, "val_manifest": "val.csv"},
        {**TWO, "val_split": None, "val_manifest": "val_of_two.csv"},
        ("validation",),
        ("losses", "last_weights"),
    ),
    "val_split": Effect(TWO, {**TWO, "val_split": "train"}, ("validation",), ("losses", "last_weights")),
    "val_fraction": Effect(
        {"val_split": None, "val_fraction": 0.2}, {"val_split": None, "val_fraction": 0.5}, ("num_steps", "messages")
    ),
    "trainable": Effect(
        PLAIN, {**PLAIN, "trainable": "head"}, ("last_weights", "messages"), ("first_loss", "first_weights", "rates")
    ),
    "lora_rank": Effect({"trainable": "lora"}, {"trainable": "lora", "lora_rank": 2}, ("last_weights", "messages")),
    "lora_alpha": Effect({"trainable": "lora"}, {"trainable": "lora", "lora_alpha": 64.0}, ("last_weights",), ("first_weights",)),
    "unfreeze_every": Effect(LAST, {**LAST, "unfreeze_every": 1}, ("last_weights",), ("first_loss", "first_weights", "rates")),
    "layer_decay": Effect({}, {"layer_decay": 0.5}, ("scales", "weights"), ("first_loss", "rates")),
    "layer_decay_rule": Effect({}, {"layer_decay_rule": "depth"}, ("scales", "weights"), ("first_loss", "rates")),
    "drop_path_rate": Effect({}, {"drop_path_rate": 0.6}, ("losses", "model"), ("first_clips", "first_weights")),
    "smoothing": Effect({}, {"smoothing": 0.4}, ("losses",), ("first_clips", "first_weights", "model")),
    "mixup": Effect(PLAIN, {**PLAIN, "mixup": 0.8}, ("first_clips", "losses"), ("first_weights", "model")),
    "cutmix": Effect(PLAIN, {**PLAIN, "cutmix": 1.0}, ("first_clips", "losses"), ("first_weights", "model")),
    "mix_switch": Effect(
        {**PLAIN, "mixup": 0.8, "cutmix": 1.0, "mix_switch": 0.0},
        {**PLAIN, "mixup": 0.8, "cutmix": 1.0, "mix_switch": 1.0},
        ("first_clips", "losses"),
        ("first_weights", "model"),
    ),
    "rand_augment": Effect(PLAIN, {**PLAIN, "rand_augment": True}, ("first_clips", "losses"), ("first_weights", "model")),
    "crop_scale": Effect(
        PLAIN, {**PLAIN, "crop_scale": (0.9, 1.0)}, ("first_clips", "losses"), ("first_weights", "validated_clips")
    ),
    "flip_rate": Effect(PLAIN, {**PLAIN, "flip_rate": 1.0}, ("first_clips", "losses"), ("first_weights", "model")),
    "erase_rate": Effect(PLAIN, {**PLAIN, "erase_rate": 1.0}, ("first_clips", "losses"), ("first_weights", "model")),
    "loss": Effect(REGRESSION, {**REGRESSION, "loss": "ccc"}, ("losses",), ("first_clips", "first_weights", "model")),
    "label_scaling": Effect(
        REGRESSION, {**REGRESSION, "label_scaling": "standardize"}, ("losses", "model"), ("first_clips",)
    ),
    "label_range": Effect(
        {**REGRESSION, "label_scaling": "range", "output_activation": "sigmoid", "label_range": (0.0, 1.0)},
        {**REGRESSION, "label_scaling": "range", "output_activation": "sigmoid", "label_range": (-1.0, 2.0)},
        ("losses", "model"),
        ("first_clips",),
    ),
    "balanced_sampling": Effect({}, {"balanced_sampling": True}, ("losses",), ("first_weights", "num_steps")),
    "class_weights": Effect({}, {"class_weights": "balanced"}, ("losses",), ("first_clips", "first_weights")),
}  # fmt: skip

PRETRAIN_EFFECTS: dict[str, Effect] = {
    **{
        name: FINETUNE_EFFECTS[name]
        for name in (
            *("manifest", "root", "preset", "epochs", "warmup_epochs", "base_lr", "min_lr", "weight_decay", "betas"),
            *("clip_grad", "precision", "seed"),
        )
    },
    "fps": Effect({}, {"fps": 12.5}, ("first_clips", "model"), ("first_weights",)),
    "frames_fps": Effect(
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 25.0},
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 50.0},
        ("first_clips",),
        ("first_weights", "model"),
    ),
    "split": Effect({}, {"split": "val"}, ("num_steps", "first_clips")),
    "fraction": Effect({}, {"fraction": 0.3}, ("losses", "messages"), ("num_steps", "rates")),
    "model": Effect({}, {"model": {"decoder_depth": 2}}, ("model", "first_weights"), ("rates",)),
    "sampling_stride": Effect({}, {"sampling_stride": 2}, ("first_clips", "model"), ("first_weights",)),
    "batch_size": Effect({}, {"batch_size": 9}, ("num_steps", "rates", "first_batch_size")),
    "repeats": Effect({}, {"repeats": 2}, ("num_steps", "losses"), ("first_batch_size",)),
    "accumulate_steps": Effect({}, {"accumulate_steps": 2}, ("num_forwards",), ("num_steps", "rates", "first_weights")),
    "ema_decay": Effect(TWO, {**TWO, "ema_decay": 0.9}, ("weights",), ("losses", "last_weights")),
    "mask_ratio": Effect({}, {"mask_ratio": 0.5}, ("losses", "model"), ("first_weights", "first_clips")),
    "target": Effect({}, {"target": "difference"}, ("losses", "model"), ("first_weights", "first_clips")),
    "crop_scales": Effect({}, {"crop_scales": (0.5,)}, ("first_clips", "losses"), ("first_weights", "model")),
}


class Runs:
    """Runs by their settings; each is done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, dict[str, Any]] = {}
        self._number = count()
        manifest = write_material(folder)
        lines = manifest.read_text().splitlines()
        (folder / "other.csv").write_text("\n".join([lines[0], *(lines[2:] + lines[1:2])]) + "\n")
        (folder / "val.csv").write_text("\n".join([lines[0], *lines[13:]]) + "\n")
        (folder / "val_of_two.csv").write_text("\n".join([lines[0], *lines[-4:]]) + "\n")
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "frames").symlink_to(folder / "frames")
        for n in range(18):
            (folder / "elsewhere" / f"v{n:02d}.mp4").symlink_to(folder / f"v{(n + 1) % 18:02d}.mp4")

    def config(self, kind: type, settings: dict[str, Any]) -> Any:
        shared = FINETUNE if kind is FinetuneConfig else PRETRAIN
        chosen = {"manifest": "m.csv", **shared, **settings}
        for name in ("manifest", "val_manifest", "root"):
            if name in chosen:
                chosen[name] = self.folder / chosen[name]
        return kind(out=self.folder / f"run_{next(self._number)}", **chosen)

    def __call__(self, kind: type, settings: dict[str, Any]) -> dict[str, Any]:
        key = f"{kind.__name__} {sorted(settings.items(), key=str)}"
        if key not in self._done:
            train = finetune if kind is FinetuneConfig else pretrain
            self._done[key] = observe_training(train, self.config(kind, settings))
        return self._done[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("wiring"))


def test_equal_settings_show_the_same(runs):
    first = runs(FinetuneConfig, TWO)
    assert first["validated"], "the model is in training mode while it is validated"
    again = observe_training(finetune, runs.config(FinetuneConfig, TWO))
    for name, value in first.items():
        assert name == "messages" or again[name] == value, name  # these tell how long it took


@pytest.mark.parametrize("name", FINETUNE_EFFECTS)
def test_a_setting_of_fine_tuning_has_its_effect(name, runs):
    effect = FINETUNE_EFFECTS[name]
    check(effect, *(runs(FinetuneConfig, settings) for settings in (effect.a, effect.b)))


# What the loop does of both alike, as the effects on fine-tuning show.
OF_THE_LOOP = {"epochs", "warmup_epochs", "base_lr", "min_lr", "weight_decay", "betas", "clip_grad", "precision"}
OF_THE_LOOP |= {"batch_size", "repeats", "accumulate_steps", "ema_decay"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in OF_THE_LOOP else []) for n in PRETRAIN_EFFECTS]
)
def test_a_setting_of_pre_training_has_its_effect(name, runs):
    effect = PRETRAIN_EFFECTS[name]
    check(effect, *(runs(PretrainConfig, settings) for settings in (effect.a, effect.b)))


# Settings whose effect is not on the numbers of a run, with a test of their own.


BOTH = pytest.mark.parametrize(("kind", "train"), [(FinetuneConfig, finetune), (PretrainConfig, pretrain)])
# What the loop does for both alike, and takes seconds.
BOTH_BUT_ONE_SLOW = pytest.mark.parametrize(
    ("kind", "train"), [pytest.param(FinetuneConfig, finetune, marks=pytest.mark.slow), (PretrainConfig, pretrain)]
)


@BOTH
def test_out_and_resume(kind, train, runs):
    config = runs.config(kind, {"epochs": 1})
    first = train(config)
    assert (config.out / "best" / "model.safetensors").is_file()
    with pytest.raises(UserError, match="holds a run already"):
        train(config)
    assert train(replace(config, resume=True)).metrics == first.metrics


@BOTH_BUT_ONE_SLOW
def test_resume_goes_on_with_the_next_micro_batch(kind, train, runs):
    """In the middle of an epoch, where a step has several."""
    settings = {"accumulate_steps": 2, "epochs": 2, "batch_size": 4}
    whole, config = runs(kind, settings), runs.config(kind, settings)
    with stopped_in_step(4):
        stopped = train(config)
    assert (stopped.finished, stopped.step) == (False, 4)
    assert observe_training(train, replace(config, resume=True))["losses"] == whole["losses"]


@BOTH
def test_every_random_choice_of_videos_has_the_seed(kind, train, runs):
    task = FinetuneTask if kind is FinetuneConfig else PretrainTask
    chosen = {seed: paths_of(task(runs.config(kind, {"fraction": 0.5, "seed": seed})).manifest) for seed in range(3)}
    assert len(set(map(len, chosen.values()))) == 1 and len(set(chosen.values())) > 1


def test_the_choice_of_validation_has_the_seed(runs):
    settings = {"val_split": None, "val_fraction": 0.3}
    chosen = {paths_of(FinetuneTask(runs.config(FinetuneConfig, {**settings, "seed": s})).validation) for s in range(3)}
    assert len(chosen) > 1


def paths_of(manifest: Manifest) -> tuple[str, ...]:
    return tuple(sorted(sample.path.name for sample in manifest))


def test_values_of_frames_are_those_of_their_pictures_within_a_time_span(runs):
    np.savetxt(runs.folder / "numbers.csv", np.arange(40), header="valence", comments="")
    rows = "".join(f"v{number:02d}.mp4,0.4,1.4,numbers.csv\n" for number in range(12))
    (runs.folder / "spans.csv").write_text(f"path,start_s,end_s,frame_values\n{rows}")
    settings = {**FRAMES, "dimensions": ["valence"], "manifest": "spans.csv", "split": None, "val_split": None}
    task = FinetuneTask(runs.config(FinetuneConfig, settings))
    for number in range(3):
        item = task.dataset[number]
        assert item.targets[0]["values"][:, 0].tolist() == list(item.frames[0])
        assert 10 <= min(item.frames[0]) < max(item.frames[0]) < 35


@BOTH
def test_clips_are_normalised_by_mean_and_deviation(kind, train, runs):
    mean, std = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)
    given = {"model": {"pixel_mean": mean, "pixel_std": std}}
    task = (FinetuneTask if kind is FinetuneConfig else PretrainTask)(
        runs.config(kind, given | (PLAIN if kind is FinetuneConfig else {}))
    )
    batch = task.dataset.collate([task.dataset[number] for number in range(4)])
    batch["clips"] = torch.full_like(batch["clips"], 255)
    with watching() as watch:
        task.losses(task.model, batch, torch.Generator().manual_seed(0))
    (clips,) = watch.tensors
    for channel in range(3):
        assert clips[:, channel].unique().tolist() == pytest.approx([(1 - mean[channel]) / std[channel]], abs=1e-5)


def test_random_draws_differ_between_steps_micro_batches_and_processes(runs, monkeypatch):
    task = PretrainTask(runs.config(PretrainConfig, {"accumulate_steps": 2}))
    run, drawn = TrainingRun(task, task.config), []

    def losses(model, batch, generator):
        drawn.append((generator.initial_seed(), torch.initial_seed()))
        return [sum(parameter.sum() for parameter in model.parameters())]

    monkeypatch.setattr(task, "losses", losses)
    batches = run._batches(0, 0)
    micro = [batch for batch, _ in zip(batches, range(2), strict=False)]
    for rank in range(2):
        monkeypatch.setattr(type(run.accelerator), "process_index", rank)
        for run.state.step in range(2):
            run._accumulate(micro)
    run.loader.close()
    for seeds in zip(*drawn, strict=True):
        assert len(set(seeds)) == 8


@BOTH_BUT_ONE_SLOW
def test_both_ends_of_the_schedule_grow_with_the_batch(kind, train, runs):
    """With equal ends and no warm-up, the rate is the same all the time."""
    rates = runs(kind, {"warmup_epochs": 0.0, "base_lr": 0.01, "min_lr": 0.01, "batch_size": 6, "epochs": 2})["rates"]
    assert rates == pytest.approx([0.01 * 6 / 256] * 4)


def prepared(runs: Runs, stride: int = 2) -> Path:
    """A dataset of two folds over the material, with the classes in another order."""
    folder = runs.folder / f"prepared_{stride}"
    folder.mkdir(exist_ok=True)
    lines = (runs.folder / "m.csv").read_text().splitlines()
    for name, rows in {"a": lines[1:9], "b": lines[5:13], "test": lines[13:]}.items():
        (folder / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    folds = tuple(Fold(name, Path(f"{name}.csv"), Path("test.csv"), Path("test.csv")) for name in "ab")
    names = ("sad", "happy", "neutral")
    described = PreparedDataset(
        "own", "Own", "classification", Path(".."), names, folds, Path("a.csv"), ("uar", "war"), stride
    )
    write_dataset_file(folder, described)
    return folder


def test_dataset_and_fold(runs):
    open_settings = {"manifest": None, "split": None, "val_split": None, "sampling_stride": None, "epochs": 1}
    shown = {}
    for fold in "ab":
        config = replace(runs.config(FinetuneConfig, {}), **open_settings, dataset=prepared(runs), fold=fold)
        shown[fold] = observe_training(finetune, config)
        assert shown[fold]["model"]["label_names"] == ["sad", "happy", "neutral"]
        assert shown[fold]["model"]["sampling_stride"] == 2
    check(Effect({}, {}, ("first_clips", "losses"), ("first_weights", "validated_clips")), shown["a"], shown["b"])


def test_dataset_of_pre_training(runs):
    config = replace(runs.config(PretrainConfig, {}), manifest=None, split=None, sampling_stride=None, epochs=1)
    shown = observe_training(pretrain, replace(config, dataset=prepared(runs)))
    assert shown["model"]["sampling_stride"] == 2
    assert shown["num_steps"] == 1


def sources(runs: Runs) -> list[str]:
    """Manifests of 8 and 4 of the 12 training videos."""
    head, *lines = (runs.folder / "m.csv").read_text().splitlines()
    for name, rows in {"eight.csv": lines[:8], "four.csv": lines[8:12]}.items():
        (runs.folder / name).write_text("\n".join([head, *rows]) + "\n")
    return [str(runs.folder / "eight.csv"), str(runs.folder / "four.csv")]


def drawn_of(train: Any, config: Any, monkeypatch) -> tuple[list[int], dict[str, Any]]:
    """How often videos of each of two sources were opened for training, and what the run showed."""
    opened, real = [], clip_dataset.open_video
    monkeypatch.setattr(clip_dataset, "open_video", lambda path, fps: opened.append(path.name) or real(path, fps))
    shown = observe_training(train, config)
    monkeypatch.undo()
    numbers = [int(name[1:3]) for name in opened]
    return [sum(number < 8 for number in numbers), sum(8 <= number < 12 for number in numbers)], shown


SOURCES = {"split": None, "val_split": None, "val_manifest": "val.csv", "label_names": ["happy", "neutral", "sad"]}


@BOTH_BUT_ONE_SLOW
def test_weights_of_manifests_are_shares_of_the_clips(kind, train, runs, monkeypatch):
    """In epochs of the same length, at the same learning rates; without weights all are one manifest."""
    eight, four = sources(runs)
    given = (SOURCES if kind is FinetuneConfig else {"split": None}) | {"epochs": 1}
    found, shown = {}, {}
    for weights in (("", ""), (":1", ":1"), (":1", ":5")):
        config = replace(runs.config(kind, given), manifest=[eight + weights[0], four + weights[1]])
        found[weights], shown[weights] = drawn_of(train, config, monkeypatch)
    assert found == {("", ""): [8, 4], (":1", ":1"): [6, 6], (":1", ":5"): [2, 10]}
    none, equal, most = shown.values()
    same = ("num_steps", "rates", "first_weights", "model")
    check(Effect({}, {}, ("first_clips", "losses", "messages", "provenance"), same), none, equal)
    check(Effect({}, {}, ("losses", "messages", "provenance"), same), equal, most)
    joined = runs.config(kind, {**given, "manifest": "m.csv", "split": "train"})
    check(
        Effect({}, {}, ("provenance",), (*same, "first_clips", "losses", "last_weights")),
        none,
        observe_training(train, joined),
    )


@BOTH_BUT_ONE_SLOW
def test_a_run_of_several_manifests_goes_on_with_the_same_draws(kind, train, runs):
    """And not with other weights."""
    eight, four = sources(runs)
    given = (SOURCES if kind is FinetuneConfig else {"split": None}) | TWO | {"batch_size": 4}
    whole = replace(runs.config(kind, given), manifest=[f"{eight}:1", f"{four}:2"])
    losses, config = observe_training(train, whole)["losses"], runs.config(kind, given)
    config = replace(config, manifest=whole.manifest)
    with stopped_in_step(4):
        assert train(config).step == 4
    with pytest.raises(
        UserError, match="training manifests: 8 videos with weight 1, 4 videos with weight 2 then, 8 videos w"
    ):
        train(replace(config, manifest=[f"{eight}:1", f"{four}:3"], resume=True))
    assert observe_training(train, replace(config, resume=True))["losses"] == losses


def test_weights_of_datasets(runs, monkeypatch):
    """Each with its own fold, root and validation; what they say differently must be given."""
    first, second = prepared(runs), other_dataset(runs)
    config = replace(runs.config(FinetuneConfig, {}), manifest=None, split=None, val_split=None, sampling_stride=None)
    config = replace(config, dataset=[f"{first}:1", f"{second}:3"], fold="b")
    with pytest.raises(
        UserError, match=r"sampling_stride: the datasets differ, 2 in .*prepared_2, 1 in .*give `sampling_stride`"
    ):
        finetune(config)
    config = replace(config, sampling_stride=1)
    task = FinetuneTask(config)
    assert task.config.manifest == [f"{first}/b.csv:1", f"{second}/train.csv:3"]
    assert len(task.manifest) == 8 + 4 and task.validation is not None and len(task.validation) == 6 + 2
    assert task.model.config.label_names == ("sad", "happy", "neutral")
    names = [Path(sample.path).name for sample in task.manifest]
    assert names == [f"v{n:02d}.mp4" for n in (*range(4, 12), *range(4))], "a root or a fold is not that of its dataset"
    counts, _ = drawn_of(finetune, replace(config, epochs=4), monkeypatch)
    assert counts[0] > 2 * counts[1]  # of 48 draws 36 are of v00 to v03, and some of v04 to v07
    pretraining = replace(
        runs.config(PretrainConfig, {}), manifest=None, split=None, dataset=[first, second], sampling_stride=1
    )
    assert len(PretrainTask(pretraining).manifest) == 8 + 4


def other_dataset(runs: Runs) -> Path:
    """One fold of four videos, with the classes in another order, and one part of two for validation."""
    folder = runs.folder / "other" / "dataset"
    folder.mkdir(exist_ok=True, parents=True)
    head, *lines = (runs.folder / "m.csv").read_text().splitlines()
    for name, rows in {"train": lines[:4], "val": lines[13:15]}.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
    fold = Fold("1", Path("train.csv"), None, Path("val.csv"))
    names = ("happy", "neutral", "sad")
    described = PreparedDataset(
        "other", "Other", "classification", Path("../.."), names, (fold,), Path("train.csv"), sampling_stride=1
    )
    write_dataset_file(folder, described)
    return folder


def test_parallel(runs, monkeypatch):
    given = []
    monkeypatch.setattr(
        "svfap.train.finetune.run_all", lambda work, configs, parallel: given.append(parallel) or signal.SIGINT
    )
    for parallel in (1, 2):
        config = replace(runs.config(FinetuneConfig, {}), manifest=None, split=None, val_split=None, fold="all")
        finetune(replace(config, dataset=prepared(runs), parallel=parallel))
    assert given == [1, 2]


def test_init(runs):
    config = runs.config(PretrainConfig, {"epochs": 1})
    pretrain(config)
    scratch = runs(FinetuneConfig, {})
    shown = observe_training(finetune, runs.config(FinetuneConfig, {"init": str(config.out)}))
    check(Effect({}, {}, ("first_weights", "losses", "provenance"), ("first_clips", "rates")), scratch, shown)
    encoder = svfap.load_model(config.out).encoder.state_dict()
    with watching() as watch:
        started = FinetuneTask(runs.config(FinetuneConfig, {"init": str(config.out)})).model.encoder.state_dict()
    assert not watch.inputs
    assert all(torch.equal(started[name], encoder[name]) for name in started)


def test_init_of_pre_training(runs):
    """Another run goes on from its weights, decoder and all; with another seed, so that masks and order differ."""
    config = runs.config(PretrainConfig, {"epochs": 1})
    pretrain(config)
    scratch = runs(PretrainConfig, {})
    shown = observe_training(pretrain, runs.config(PretrainConfig, {"init": str(config.out)}))
    check(Effect({}, {}, ("first_weights", "losses", "provenance"), ("first_clips", "rates")), scratch, shown)
    before = svfap.load_model(config.out).state_dict()
    with watching():
        started = PretrainTask(runs.config(PretrainConfig, {"init": str(config.out)})).model.state_dict()
    assert all(torch.equal(started[name], before[name]) for name in started)


@BOTH
def test_compile(kind, train, runs, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *args, **kwargs: compiled.append(type(self).__name__))
    train(runs.config(kind, {"epochs": 1}))
    assert compiled == []
    train(runs.config(kind, {"epochs": 1, "compile": True}))
    assert compiled


@BOTH_BUT_ONE_SLOW
def test_checkpoint_activations(kind, train, runs, monkeypatch):
    again, shown, real = [], {}, layers.checkpoint
    monkeypatch.setattr(
        layers, "checkpoint", lambda block, *tokens, **how: again.append(1) or real(block, *tokens, **how)
    )
    for on in (False, True):
        again.clear()
        shown[on] = observe_training(train, runs.config(kind, {"epochs": 1, "checkpoint_activations": on}))
        assert bool(again) == on
    assert shown[True]["losses"] == shown[False]["losses"]
    assert shown[True]["last_weights"] == shown[False]["last_weights"]


@BOTH_BUT_ONE_SLOW
def test_num_workers(kind, train, runs, monkeypatch, tmp_path):
    real = ClipDataset.__getitem__

    def noting(self, index):
        (tmp_path / str(os.getpid())).touch()
        return real(self, index)

    monkeypatch.setattr(ClipDataset, "__getitem__", noting)
    shown = {}
    for number in (0, 2):
        settings = {
            "epochs": 1,
            "num_workers": number,
            **({"val_split": None, "val_fraction": 0.0} if kind is FinetuneConfig else {}),
        }
        shown[number] = observe_training(train, runs.config(kind, settings))
        processes = {int(path.name) for path in tmp_path.iterdir()}
        assert len(processes - {os.getpid()}) == number
        for path in tmp_path.iterdir():
            path.unlink()
    assert shown[0]["losses"] == shown[2]["losses"]


@BOTH_BUT_ONE_SLOW
def test_cache_gb(kind, train, runs, monkeypatch):
    opened = []
    real = clip_dataset.open_video
    monkeypatch.setattr(clip_dataset, "open_video", lambda path, fps: opened.append(path) or real(path, fps))
    shown, counts = {}, {}
    for gigabytes in (0.0, 0.1):
        opened.clear()
        shown[gigabytes] = observe_training(train, runs.config(kind, {**TWO, "cache_gb": gigabytes}))
        counts[gigabytes] = len(opened), len(set(opened))
    assert shown[0.0]["losses"] == shown[0.1]["losses"]
    assert counts[0.1][0] == counts[0.1][1] < counts[0.0][0]


@BOTH
def test_max_unreadable(kind, train, runs):
    lines = (runs.folder / "m.csv").read_text().splitlines()
    (runs.folder / "broken.mp4").write_bytes(b"no video")
    lines[1] = lines[1].replace("v00.mp4", "broken.mp4")
    (runs.folder / "broken.csv").write_text("\n".join(lines) + "\n")
    assert train(runs.config(kind, {"manifest": "broken.csv", "epochs": 1, "max_unreadable": 0.1})).finished
    with pytest.raises(UserError, match="more than max_unreadable=0.05 allows"):
        train(runs.config(kind, {"manifest": "broken.csv", "epochs": 1, "max_unreadable": 0.05}))


@BOTH_BUT_ONE_SLOW
def test_save_every_steps(kind, train, runs, monkeypatch):
    steps = []
    real = RunFolder.save_last
    monkeypatch.setattr(
        RunFolder, "save_last", lambda self, state, *more: (steps.append(state.step), real(self, state, *more))
    )
    train(runs.config(kind, {"epochs": 2, "batch_size": 2}))
    assert steps == [12]
    steps.clear()
    train(runs.config(kind, {"epochs": 2, "batch_size": 2, "save_every_steps": 4}))
    assert steps == [4, 8, 12]


def test_previews(runs):
    shown = {}
    for number in (0, 2):
        config = runs.config(PretrainConfig, {"previews": number, "epochs": 1})
        pretrain(config)
        events = EventAccumulator(str(config.out / "tensorboard")).Reload()
        shown[number] = [events.Images(tag)[0].width for tag in events.Tags()["images"]]
    assert (shown[0], shown[2]) == ([], [2 * 32])  # side by side


OWN_TESTS = {"out", "resume", "dataset", "compile", "num_workers", "cache_gb", "max_unreadable", "save_every_steps"}
OWN_TESTS |= {"checkpoint_activations", "track", "track_project"}


@BOTH_BUT_ONE_SLOW
def test_track_and_track_project(kind, train, runs, monkeypatch):
    begun = []

    class Service(_Client):
        name, fix = "mlflow", ""

        def start(self):
            begun.append(self.project)
            return {}

        def log(self, record):
            pass

        def finish(self, outcome):
            pass

    monkeypatch.setitem(SERVICES, "mlflow", Service)
    for module in ("tracking", "resolve"):
        monkeypatch.setattr(f"svfap.train.{module}.require_trackers", lambda names: None)
    events = {}
    for names, project in (([], None), (["tensorboard"], None), ("mlflow", "faces")):
        config = runs.config(kind, {"epochs": 1, "track": names, "track_project": project})
        train(config)
        events[str(names)] = (config.out / "tensorboard").is_dir()
    assert events == {"[]": False, "['tensorboard']": True, "mlflow": False} and begun == ["faces"]


def test_probe_every_and_probe_dataset(runs):
    found = {}
    for every, classes in ((1, 3), (2, 3), (1, 2)):
        folder = probed(runs, classes)
        config = runs.config(PretrainConfig, {**TWO, "probe_every": every, "probe_dataset": folder})
        pretrain(config)
        lines = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
        found[every, classes] = [line for line in lines if line["kind"] == "probe"]
    assert [line["epoch"] for line in found[1, 3]] == [0, 1, 2] and [line["epoch"] for line in found[2, 3]] == [0, 2]
    assert found[1, 3][0]["linear_pixels_war"] == found[2, 3][0]["linear_pixels_war"]
    scores = [{**lines[0], "seconds": 0} for lines in (found[1, 3], found[1, 2])]
    assert scores[0] != scores[1]


def probed(runs: Runs, classes: int) -> Path:
    """A dataset over the material with some of the classes; people are not in both parts."""
    folder = runs.folder / f"probed_{classes}"
    folder.mkdir(exist_ok=True)
    head, *lines = (runs.folder / "m.csv").read_text().splitlines()
    names = ("happy", "neutral", "sad")[:classes]
    chosen = [line for line in lines if line.split(",")[1] in names]
    (folder / "train.csv").write_text("\n".join([head, *(line for line in chosen if ",train," in line)]) + "\n")
    (folder / "val.csv").write_text("\n".join([head, *(line for line in chosen if ",val," in line)]) + "\n")
    folds = (Fold("1", Path("train.csv"), None, Path("val.csv")),)
    write_dataset_file(folder, PreparedDataset("own", "Own", "classification", Path(".."), names, folds))
    return folder


HEADS = {"expression": EXPRESSION, "affect": REGRESSION}
HEAD_EFFECTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "task": ("affect", {"task": "classification", "dimensions": None}, ("model", "losses")),
    "weight": ("affect", {"weight": 2}, ("losses",)),
    "frame_level": ("affect", {"frame_level": True}, ("model", "losses")),
    "dimensions": ("affect", {"dimensions": ["arousal"]}, ("model", "losses")),
    "output_activation": ("affect", {"output_activation": "sigmoid"}, ("model", "losses")),
    "loss": ("affect", {"loss": "ccc"}, ("losses",)),
    "label_scaling": ("affect", {"label_scaling": "standardize"}, ("model", "losses")),
    "label_range": ("affect", {"label_scaling": "range", "label_range": [-1, 2]}, ("model", "losses")),
    "invalid_marks": ("affect", {"frame_level": True, "invalid_marks": [0.25]}, ("losses",)),
    "label_column": ("expression", {"label_column": "mood"}, ("losses",)),
    "label_names": ("expression", {"label_names": ["sad", "neutral", "happy"]}, ("model", "losses")),
    "smoothing": ("expression", {"smoothing": 0.4}, ("losses",)),
    "class_weights": ("expression", {"class_weights": "balanced"}, ("losses",)),
}


def test_every_setting_of_a_head_has_a_test_of_its_effect():
    assert set(HEAD_EFFECTS) == {*head_config.COMMON, *sum(head_config.OF_TASK.values(), ())}


# What a run with one head reads by the same code, as the effects on fine-tuning show.
OF_ONE_HEAD = {"dimensions", "output_activation", "loss", "label_scaling", "label_range", "invalid_marks"}
OF_ONE_HEAD |= {"smoothing", "class_weights"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in OF_ONE_HEAD else []) for n in HEAD_EFFECTS]
)
def test_a_setting_of_a_head_has_its_effect(name, runs):
    head, settings, shown = HEAD_EFFECTS[name]
    more: dict[str, Any] = {"epochs": 1, "mixup": 0.0, "cutmix": 0.0}
    if name == "label_column":
        lines = (runs.folder / "m.csv").read_text().splitlines()
        moods = ["mood", *(line.split(",")[1] for line in lines[:0:-1])]
        rows = [f"{line},{mood}\n" for line, mood in zip(lines, moods, strict=True)]
        (runs.folder / "moods.csv").write_text("".join(rows))
        more["manifest"] = "moods.csv"
    b = {key: value for key, value in {**HEADS[head], **settings}.items() if value is not None}
    # All that is set beside the setting itself is the same in both.
    a = {key: b[key] for key in b if key != name} | {key: HEADS[head][key] for key in HEADS[head] if key == name}
    a = HEADS[head] if name == "task" else a
    found = [runs(FinetuneConfig, {**more, "heads": {**HEADS, head: each}}) for each in (a, b)]
    check(Effect({}, {}, shown, ("first_clips",)), *found)


TESTED = {
    FinetuneConfig: {*FINETUNE_EFFECTS, *OWN_TESTS, "fold", "parallel", "init"},
    PretrainConfig: {*PRETRAIN_EFFECTS, *OWN_TESTS, "init", "previews", "probe_every", "probe_dataset"},
}
