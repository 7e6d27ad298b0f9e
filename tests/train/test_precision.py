"""Outputs and losses under autocast: float32 from the pooled features on."""

from __future__ import annotations

import pytest
import torch

import svfap
from svfap.train.losses import REGRESSION_LOSSES

SIZES = dict(img_size=16, num_frames=4, embed_dim=16, num_heads=2, stage_depths=(1,))


def model_of(**settings) -> svfap.Perceiver:
    torch.manual_seed(0)
    model = svfap.create_model("svfap_debug", "regression", **{**SIZES, "num_outputs": 2, **settings}).eval()
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("frame_level", [False, True])
def test_bf16_keeps_values_that_are_small_beside_their_offset(frame_level):
    model = model_of(output_offset=(100.0, -100.0), output_scale=(1.0, 1.0), frame_level=frame_level)
    clips = torch.randn(256, 3, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model.encoder(clips)
            outputs, features = model.outputs_and_features(clips)
        exact = model.double()._outputs(tokens.double())
    assert outputs.dtype == features.dtype == torch.float32
    values = outputs[..., 0].flatten()
    assert len(values.unique()) > 0.8 * len(values)
    error = (outputs - exact).abs().amax()
    assert error < 1e-4 * exact[..., 0].std()


def test_bf16_from_end_to_end_is_near_float32():
    model = model_of(output_offset=(100.0, -100.0), output_scale=(1.0, 1.0), output_activation="tanh")
    clips = torch.randn(256, 3, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        exact = model(clips)
        with torch.autocast("cpu", torch.bfloat16):
            error = (model(clips) - exact).square().mean(0).sqrt()
    assert (error < 0.02 * exact.std(0)).all()


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_losses_of_regression_are_float32_under_autocast(name):
    generator = torch.Generator().manual_seed(0)
    outputs = 100 + torch.randn(64, 2, generator=generator)
    targets = outputs + 0.1 * torch.randn(64, 2, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        loss = REGRESSION_LOSSES[name](outputs, targets)
    exact = REGRESSION_LOSSES[name](outputs.double(), targets.double())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3)


def test_weights_of_another_dtype_stay_in_it():
    model = model_of(output_activation="tanh", output_offset=(1.0, 2.0), output_scale=(1.0, 1.0))
    assert model.double()(torch.zeros(1, 3, 4, 16, 16, dtype=torch.float64)).dtype == torch.float64
