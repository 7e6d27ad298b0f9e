"""Every setting of a model changes its tensors, its outputs, or what is done with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from observe import Effect, check, digest

from svfap.model.build import create_model
from svfap.model.config import ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.model.perceiver import by_head
from svfap.weights.folder import load_model

PRETRAINING = {"task": "pretraining"}
REGRESSION = {"task": "regression", "num_outputs": 3}
MOOD = {"name": "mood", "task": "classification", "label_names": ("joy", "fear", "calm")}
VALUES = {"name": "values", "task": "regression", "label_names": ("valence", "arousal"), "frame_level": True}

EFFECTS = {
    "task": Effect({}, PRETRAINING, ("class", "shapes"), ("num_tokens",)),
    "img_size": Effect({}, {"img_size": 64}, ("num_tokens", "first_output"), ("shapes",)),
    "num_frames": Effect({}, {"num_frames": 32}, ("num_tokens", "first_output"), ("shapes",)),
    "patch_size": Effect({}, {"patch_size": 16}, ("num_tokens", "shapes")),
    "tubelet_size": Effect({}, {"tubelet_size": 1}, ("num_tokens", "shapes")),
    "stem": Effect({}, {"stem": "conv"}, ("shapes", "first_output"), ("num_tokens",)),
    "standardize_clips": Effect({}, {"standardize_clips": True}, ("first_output",), ("shapes", "weights")),
    "embed_dim": Effect({}, {"embed_dim": 16}, ("shapes",), ("num_tokens",)),
    "num_heads": Effect({}, {"num_heads": 4}, ("first_output",), ("shapes", "weights")),
    "mlp_ratio": Effect({}, {"mlp_ratio": 2.0}, ("shapes",)),
    "stage_depths": Effect({}, {"stage_depths": (2, 1, 1)}, ("shapes",)),
    "num_bottleneck_tokens": Effect({}, {"num_bottleneck_tokens": (3, 3)}, ("shapes",)),
    "bottleneck_hidden_dim": Effect({}, {"bottleneck_hidden_dim": 8}, ("shapes",)),
    "temporal_kernel_size": Effect({}, {"temporal_kernel_size": 1}, ("shapes",)),
    "temporal_pyramid": Effect({}, {"temporal_pyramid": False}, ("shapes", "first_output")),
    "temporal_downsample": Effect({}, {"temporal_downsample": "avg"}, ("shapes", "first_output")),
    "spatial_bottleneck": Effect({}, {"spatial_bottleneck": False}, ("shapes", "first_output")),
    "drop_path_rate": Effect({}, {"drop_path_rate": 0.5}, ("output_in_training",), ("shapes", "first_output")),
    "fuse_stages": Effect({}, {"fuse_stages": True}, ("first_output",)),
    "mask_ratio": Effect(PRETRAINING, {**PRETRAINING, "mask_ratio": 0.5}, ("num_hidden", "loss"), ("shapes", "weights")),
    "target": Effect(PRETRAINING, {**PRETRAINING, "target": "difference"}, ("loss",), ("shapes", "weights", "num_hidden")),
    "decoder_embed_dim": Effect(PRETRAINING, {**PRETRAINING, "decoder_embed_dim": 32}, ("shapes", "loss"), ("num_hidden",)),
    "decoder_num_heads": Effect(PRETRAINING, {**PRETRAINING, "decoder_num_heads": 4}, ("loss",), ("shapes", "weights")),
    "decoder_depth": Effect(PRETRAINING, {**PRETRAINING, "decoder_depth": 2}, ("shapes", "loss")),
    "num_outputs": Effect({}, {"num_outputs": 5, "label_names": tuple("abcde")}, ("shapes", "first_output")),
    "output_activation": Effect(
        REGRESSION, {**REGRESSION, "output_activation": "tanh"}, ("first_output",), ("shapes", "weights")
    ),
    "output_scale": Effect(
        {**REGRESSION, "output_scale": (1.0,) * 3, "output_offset": (0.0,) * 3},
        {**REGRESSION, "output_scale": (2.0,) * 3, "output_offset": (0.0,) * 3},
        ("first_output",),
        ("shapes", "weights"),
    ),
    "output_offset": Effect(
        {**REGRESSION, "output_scale": (1.0,) * 3, "output_offset": (0.0,) * 3},
        {**REGRESSION, "output_scale": (1.0,) * 3, "output_offset": (1.0,) * 3},
        ("first_output",),
        ("shapes", "weights"),
    ),
    "frame_level": Effect({}, {"frame_level": True}, ("output_shape",), ("shapes", "weights")),
    "heads": Effect(
        {"task": "multitask", "num_outputs": 5, "heads": [MOOD, {**VALUES, "frame_level": False}]},
        {"task": "multitask", "num_outputs": 5, "heads": [MOOD, VALUES]},
        ("output_shape",),
        ("shapes", "weights", "first_output"),
    ),
}  # fmt: skip
# Settings that say how videos are read and what outputs mean: what predict does with them is tested in
# test_wiring_predict.py. The model keeps them.
KEPT: dict[str, Any] = {
    "preset": "mine",
    "label_names": ("joy", "fear", "calm"),
    "reads": "pain",
    "meanings": ("how glad", "how afraid", "how calm"),
    "sampling_stride": 3,
    "frame_rate": 12.5,
    "face_crop": {"margin": 0.1, "align": True, "border": "reflect", "detector": "yunet"},
    "frame_fit": "centre",
    "pixel_mean": (0.1, 0.2, 0.3),
    "pixel_std": (0.3, 0.2, 0.1),
    "provenance": {"finetuned_on": "m.csv"},
}


def built(settings: dict[str, Any]):
    chosen = {"task": "classification", **settings}
    if chosen["task"] == "classification":
        chosen.setdefault("label_names", ("a", "b", "c"))
    torch.manual_seed(0)
    model = create_model("svfap_debug", **chosen).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():  # in order, so that models of equal shapes have equal weights
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def observed(settings: dict[str, Any]) -> dict[str, Any]:
    model = built(settings)
    config = model.config
    torch.manual_seed(2)
    clips = torch.randn(2, 3, config.num_frames, config.img_size, config.img_size)
    shown: dict[str, Any] = {
        "class": type(model).__name__,
        "num_tokens": config.num_tokens,
        "shapes": {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        "weights": digest(*(parameter for parameter in model.parameters())),
    }
    if isinstance(model, MaskedAutoencoder):
        mask = tube_mask(2, config, generator=torch.Generator().manual_seed(0))
        return shown | {"num_hidden": config.num_masked_positions(), "loss": model.loss(clips, mask).item()}
    with torch.no_grad():
        output = model(clips)
        torch.manual_seed(3)
        in_training = model.train()(clips)
    outputs, in_training = list(by_head(output).values()), next(iter(by_head(in_training).values()))
    return shown | {
        "first_output": outputs[0].flatten()[0].item(),
        "output_shape": [tuple(each.shape) for each in outputs],
        "output_in_training": in_training.flatten()[0].item(),
    }


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_the_model_has_its_effect(name):
    effect = EFFECTS[name]
    check(effect, observed(effect.a), observed(effect.b))


def test_branches_are_dropped_of_each_clip_for_itself():
    model = built({"drop_path_rate": 0.5}).train()
    clip = torch.randn(1, 3, 16, 32, 32)
    outputs = model(clip.expand(16, -1, -1, -1, -1))
    assert len({digest(output) for output in outputs}) > 8


@pytest.mark.parametrize("name", KEPT)
def test_a_model_keeps_what_its_users_need(name, tmp_path):
    model = built({})
    model.config = replace(model.config, **{name: KEPT[name]})
    model.save_pretrained(tmp_path)
    assert getattr(load_model(tmp_path).config, name) == KEPT[name]


TESTED = {ModelConfig: {*EFFECTS, *KEPT}}
