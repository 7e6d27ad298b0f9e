"""The published code's numbers, reproduced to 1e-5 in float32 on a CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_inputs import weight
from torch.testing import assert_close

import svfap
from svfap.model.build import create_model
from svfap.weights.checkpoint import read_checkpoint
from svfap.weights.names import published_name
from svfap.weights.published import export_published

HEADS = {"num_heads": 4}
HEAD_OF_5 = {"head.weight": (5, 48), "head.bias": (5,)}
DECODER_HEADS = {"num_heads": 4, "decoder_num_heads": 2}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def arrays(path: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(path).items()}


@pytest.fixture(scope="module")
def finetuned(checkpoints):
    return svfap.import_published(checkpoints / "official_finetune_tiny.pth", **HEADS)


@pytest.fixture(scope="module")
def pretrained(checkpoints):
    return svfap.import_published(checkpoints / "official_pretrain_tiny.pth", **DECODER_HEADS)


def test_finetuned_features_and_logits(golden, golden_clip, finetuned):
    numbers = arrays(golden / "finetune_tiny.npz")
    with torch.no_grad():
        assert_close(finetuned.features(golden_clip), numbers["features"], **CLOSE)
        assert_close(finetuned(golden_clip), numbers["logits"], **CLOSE)


def test_cross_entropy_and_every_gradient_norm(golden, golden_clip, finetuned):
    expected = json.loads((golden / "tiny.json").read_text())
    loss = F.cross_entropy(finetuned(golden_clip), torch.tensor([1, 4]))
    assert loss.item() == pytest.approx(expected["ce_loss"], rel=1e-5)
    finetuned.zero_grad()
    loss.backward()
    norms = {published_name(n, finetuned.config): p.grad.norm().item() for n, p in finetuned.named_parameters()}
    assert norms.keys() == expected["grad_norms"].keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected["grad_norms"][name], rel=2e-5, abs=1e-7), name


def test_sigmoid_head(golden, golden_clip, checkpoints):
    state = dict(read_checkpoint(checkpoints / "official_finetune_tiny.pth")["model"])
    state |= {name: torch.from_numpy(weight(name, shape)) for name, shape in HEAD_OF_5.items()}
    model = svfap.import_published(
        {"model": state},
        task="regression",
        output_activation="sigmoid",
        img_size=64,
        num_frames=16,
        stage_depths=(2, 2, 2),
        **HEADS,
    )
    expected = torch.tensor(json.loads((golden / "tiny.json").read_text())["sigmoid_head"])
    with torch.no_grad():
        assert_close(model(golden_clip), expected, **CLOSE)


def test_masked_encoder_prediction_targets_and_loss(golden, golden_clip, pretrained):
    numbers = arrays(golden / "pretrain_tiny.npz")
    masked = svfap.TubeMask.from_bool(numbers["mask"], pretrained.config)
    with torch.no_grad():
        assert_close(pretrained.encoder(golden_clip, masked), numbers["encoder"], **CLOSE)
        prediction = pretrained(golden_clip, masked)
        assert prediction.shape == (2, 96, 1536)
        assert_close(prediction[:, :2], numbers["prediction_first"], **CLOSE)
        assert_close(prediction[:, :, ::13], numbers["prediction_every_13th"], **CLOSE)
        assert_close(pretrained.targets(golden_clip, masked)[:, :4], numbers["target_first"], **CLOSE)
        loss = pretrained.loss(golden_clip, masked).item()
    assert loss == pytest.approx(float(numbers["loss"]), rel=1e-5)
    assert loss == pytest.approx(json.loads((golden / "tiny.json").read_text())["pretrain_loss"], rel=1e-5)


def test_pretrained_checkpoint_into_a_task_model_leaves_the_head_alone_new(checkpoints, pretrained, caplog):
    model = svfap.import_published(
        checkpoints / "official_pretrain_tiny.pth", task="classification", num_outputs=3, num_heads=4
    )
    assert model.config.provenance["new_parameters"] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert "head.weight" in caplog.text
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, pretrained.encoder.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_published_names_round_trip_exactly(checkpoints, kind):
    path = checkpoints / f"official_{kind}_tiny.pth"
    published = read_checkpoint(path)["model"]
    ours = export_published(svfap.import_published(path, **(HEADS if kind == "finetune" else DECODER_HEADS)))
    assert ours.keys() == published.keys()
    assert all(torch.equal(ours[name], published[name]) for name in ours)


TINY = dict(img_size=64, num_frames=16, patch_size=16, embed_dim=48, num_heads=4, stage_depths=(2, 2, 2))
TINY |= dict(num_bottleneck_tokens=4, decoder_embed_dim=24, decoder_num_heads=2, decoder_depth=2)
NUM_DRAWN = 12  # models, so that a parameter with few values has a deviation


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_every_parameter_starts_with_the_published_distribution(golden, kind):
    expected = json.loads((golden / "initial_weights.json").read_text())[kind]
    task = "pretraining" if kind == "pretrain" else "classification"
    torch.manual_seed(0)
    made = [create_model("svfap_base", task, num_outputs=7 * (kind == "finetune"), **TINY) for _ in range(NUM_DRAWN)]
    config = made[0].config
    names = {published_name(name, config): name for name, _ in made[0].named_parameters()}
    assert names.keys() == expected.keys()
    states = [model.state_dict() for model in made]
    for name, how in expected.items():
        values = torch.cat([state[names[name]].flatten() for state in states])
        if "constant" in how:
            assert (values == how["constant"]).all(), name
            continue
        if "uniform" in how:
            largest, deviation = how["uniform"], how["uniform"] / 3**0.5
        else:
            largest, cut = how["cut"], how["cut"] / how["normal"]
            density, inside = 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi), math.erf(cut / math.sqrt(2))
            deviation = how["normal"] * math.sqrt(1 - density / inside)
        error = 4 / math.sqrt(2 * len(values))  # four standard errors of a deviation, or more
        assert values.std().item() == pytest.approx(deviation, rel=error), name
        assert abs(values.mean()) < 4 * deviation / math.sqrt(len(values)), name
        assert values.abs().max() <= largest * 1.0001, name
        if largest < 2 * deviation:  # a uniform distribution or one cut at its deviation reaches its end
            assert values.abs().max() > 0.9 * largest, name
