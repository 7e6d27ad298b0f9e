"""Learning-rate schedule, layer-wise decay and the optimiser, against the published recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svfap.errors import UserError
from svfap.train.optim import (
    LayerRule,
    apply_lr,
    build_optimizer,
    cosine_schedule,
    layer_of,
    moving_average,
    parameter_groups,
    scaled_lr,
)

DEPTHS = (12, 6, 3)


@pytest.mark.parametrize("name", ["finetune_lr", "pretrain_lr"])
def test_schedule_is_the_published_one(golden: Path, name: str) -> None:
    recorded = json.loads((golden / "recipe.json").read_text())[name]
    np.testing.assert_allclose(cosine_schedule(**recorded["args"]), recorded["values"], rtol=1e-12, atol=0)


def test_schedule_by_hand() -> None:
    # 3 steps of warm-up with both ends, then the cosine at 0, 1/4, 1/2 and 3/4 of its way.
    half = 0.5**0.5
    expected = [0.2, 0.6, 1.0, 1.0, 0.1 + 0.45 * (1 + half), 0.55, 0.1 + 0.45 * (1 - half)]
    np.testing.assert_allclose(cosine_schedule(1.0, 0.1, 7, 1, 3, start=0.2), expected, rtol=1e-12)
    np.testing.assert_allclose(cosine_schedule(1.0, 0.0, 1, 4, 0.5), [0, 1, 1, 0.5])
    assert cosine_schedule(1.0, 0.1, 2, 5, 0)[0] == 1.0
    assert cosine_schedule(1.0, 0.1, 2, 5, 2).tolist() == np.linspace(0, 1, 10).tolist()
    with pytest.raises(UserError, match="warmup_epochs = 3 is more than epochs = 2"):
        cosine_schedule(1.0, 0.1, 2, 5, 3)


def test_scaled_lr_says_how_it_came_about() -> None:
    lr, text = scaled_lr(1e-3, 96)
    assert lr == pytest.approx(3.75e-4) and text == "1e-3 × 96 / 256 = 3.75e-4"
    assert scaled_lr(3e-4, 256) == (3e-4, "3e-4 × 256 / 256 = 3e-4")
    assert scaled_lr(5e-4, 10)[1] == "5e-4 × 10 / 256 = 1.953e-5"


def our_name(published: str) -> str:
    """A parameter's name in the published fine-tuning model, turned into ours (what follows the part stays)."""
    if match := re.match(r"blocks\.(\d+)\.(.*)", published):
        index, stage = int(match[1]), 0
        while index >= DEPTHS[stage]:
            index, stage = index - DEPTHS[stage], stage + 1
        return f"encoder.stages.{stage}.blocks.{index}.{match[2]}"
    if match := re.match(r"(temporal|spatial)_downsamples\.(\d+)\.(.*)", published):
        part = {"temporal": "temporal_downsample", "spatial": "spatial_bottleneck"}[match[1]]
        return f"encoder.stages.{int(match[2]) + 1}.{part}.{match[3]}"
    for old, new in {"patch_embed.proj.": "encoder.tubelet_embed.", "fc_norm.": "norm.", "head.": "head."}.items():
        if published.startswith(old):
            return published.replace(old, new)
    raise AssertionError(published)


def is_vector(published: str) -> bool:
    """Biases and norms' weights are the model's one-dimensional parameters."""
    return published.endswith("bias") or "norm" in published


@pytest.fixture
def recipe(golden: Path) -> dict[str, dict[str, float]]:
    recorded: dict[str, dict[str, float]] = json.loads((golden / "recipe.json").read_text())["layer_decay_base"]
    assert len(recorded) == 385
    return recorded


def fake(parameters: dict[str, nn.Parameter], stage_depths: tuple[int, ...] = DEPTHS) -> Any:
    """As much of a model as groups are made from."""
    return SimpleNamespace(named_parameters=parameters.items, config=SimpleNamespace(stage_depths=stage_depths))


def fake_base(published: dict[str, dict[str, float]]) -> Any:
    return fake({our_name(n): nn.Parameter(torch.zeros(2) if is_vector(n) else torch.zeros(2, 2)) for n in published})


def settings(groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    return {name: (g["lr_scale"], g["weight_decay"]) for g in groups for name in g["names"]}


def test_published_rule_gives_each_parameter_its_rate_and_decay(recipe: dict[str, dict[str, float]]) -> None:
    groups = parameter_groups(fake_base(recipe), weight_decay=0.05, layer_decay=0.75)
    ours = settings(groups)
    assert len(ours) == 385 and len(groups) == 46, "two groups for each of 23 layers"
    for name, expected in recipe.items():
        assert ours[our_name(name)] == pytest.approx((expected["lr_scale"], expected["weight_decay"]), rel=1e-12), name


def test_depth_rule_differs_in_what_opens_a_stage_alone(recipe: dict[str, dict[str, float]]) -> None:
    def groups(rule: LayerRule) -> dict[str, tuple[float, float]]:
        return settings(parameter_groups(fake_base(recipe), weight_decay=0.05, layer_decay=0.75, rule=rule))

    published, depth = groups("published"), groups("depth")
    changed = {name for name in depth if depth[name] != published[name]}
    assert changed == {our_name(name) for name in recipe if "_downsamples" in name} and len(changed) == 16
    for stage, block in ((1, 12), (2, 18)):
        for part in ("temporal_downsample.weight", "spatial_bottleneck.mlp.fc1.weight"):
            name = f"encoder.stages.{stage}.{part}"
            assert depth[name] == (recipe[f"blocks.{block}.attn.qkv.weight"]["lr_scale"], 0.05)


def test_layers_by_name() -> None:
    names = {
        "encoder.tubelet_embed.weight": 0,
        "encoder.stages.0.blocks.0.attn.qkv.weight": 1,
        "encoder.stages.0.blocks.11.norm2.bias": 12,
        "encoder.stages.1.blocks.0.query_norm.weight": 13,
        "encoder.stages.2.blocks.2.mlp.fc2.weight": 21,
        "encoder.stages.1.temporal_downsample.weight": 22,
        "encoder.norm.weight": 22,
        "norm.weight": 22,
        "head.bias": 22,
        "decoder.blocks.0.attn.qkv.weight": 22,
    }
    assert {name: layer_of(name, DEPTHS) for name in names} == names
    assert layer_of("encoder.stages.1.temporal_downsample.weight", DEPTHS, "depth") == 13
    assert layer_of("encoder.stages.2.spatial_bottleneck.norm.weight", DEPTHS, "depth") == 19
    assert layer_of("head.bias", (4,), "depth") == 5


def test_without_layer_decay_there_are_two_groups_and_frozen_parameters_stay_out() -> None:
    parameters = {
        "mask_token": nn.Parameter(torch.zeros(1, 1, 4)),
        "encoder.tubelet_embed.weight": nn.Parameter(torch.zeros(4, 4)),
        "encoder.norm.weight": nn.Parameter(torch.zeros(4)),
        "head.weight": nn.Parameter(torch.zeros(4, 4), requires_grad=False),
        "decoder.head.weight": nn.Parameter(torch.zeros(4, 4)),
    }
    groups = parameter_groups(fake(parameters), weight_decay=0.1)
    assert settings(groups) == {
        "mask_token": (1, 0.0),
        "encoder.tubelet_embed.weight": (1, 0.1),
        "encoder.norm.weight": (1, 0.0),
        "decoder.head.weight": (1, 0.1),
    }
    assert len(groups) == 2


def test_optimizer_steps_at_the_scaled_rates() -> None:
    names = ("encoder.tubelet_embed.weight", "encoder.stages.0.blocks.0.norm1.weight", "head.weight")
    shapes = ((2, 2), (2,), (2, 2))
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in zip(names, shapes, strict=True)}
    model = fake(parameters, stage_depths=(2,))
    groups = parameter_groups(model, weight_decay=0.5, layer_decay=0.5)
    optimizer = build_optimizer(groups, betas=(0.9, 0.95))
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    assert all((p == 1).all() for p in parameters.values()), "no rate, no step"
    apply_lr(optimizer, 0.1)
    optimizer.step()
    # Adam's step with a constant gradient is the rate; decay takes rate * 0.5 of matrices.
    expected = [1 - 0.0125 * 1.5, 1 - 0.025, 1 - 0.1 * 1.5]
    assert [float(p.detach().mean()) for p in parameters.values()] == pytest.approx(expected, rel=1e-5)
    again = build_optimizer(parameter_groups(model, weight_decay=0.5, layer_decay=0.5))
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in optimizer.param_groups]
    assert again.param_groups[0]["betas"] == (0.9, 0.95)


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_the_moving_average_starts_at_the_first_weights_and_follows() -> None:
    torch.manual_seed(0)
    model = small_model()
    start = model[0].weight.detach().clone()
    average = moving_average(model, decay=0.9)
    with torch.no_grad():
        model[0].weight += 1.0
    average.update_parameters(model)
    average.update_parameters(model)
    # The gap of 1 shrinks by 0.9 twice.
    torch.testing.assert_close(average.module[0].weight.detach(), start + 1 - 0.81)
    assert torch.equal(model[0].weight.detach(), start + 1)
    by_hand = start.clone()
    for _ in range(2):
        by_hand.lerp_(model[0].weight.detach(), 1 - 0.9)
    assert torch.equal(average.module[0].weight.detach(), by_hand)


def test_a_moving_average_is_saved_and_read_whole() -> None:
    model = small_model()
    average = moving_average(model, decay=0.9)
    with torch.no_grad():
        model[0].weight += 1.0
    average.update_parameters(model)
    state = {name: value.clone() for name, value in average.state_dict().items()}
    other = moving_average(small_model(), decay=0.9)
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    average.update_parameters(model)
    other.update_parameters(model)
    assert torch.equal(other.module[0].weight, average.module[0].weight)
    with pytest.raises(RuntimeError, match=re.escape("module.0.weight")):
        other.load_state_dict({})


def test_a_moving_average_is_read_from_checkpoints_with_bare_names() -> None:
    model = small_model()
    average = moving_average(model, decay=0.9)
    averages = {name: torch.full_like(p, 0.5) for name, p in model.named_parameters()}
    average.load_state_dict(averages)
    assert all(torch.equal(p, averages[name]) for name, p in average.module.named_parameters())
    average.update_parameters(model)
    expected = torch.lerp(averages["0.weight"], model[0].weight.detach(), 1 - 0.9)
    assert torch.equal(average.module[0].weight.detach(), expected)  # an update, not the first one, which copies
