"""Properties of the model that hold whatever its weights, and the paper's figures that need no data."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import svfap
from svfap.errors import UserError
from svfap.model.complexity import complexity
from svfap.model.encoder import SpatialBottleneck, upsample_time
from svfap.model.layers import sincos_positions
from svfap.model.masking import TubeMask
from svfap.model.presets import model_config


def debug(task: str = "pretraining", **overrides):
    torch.manual_seed(0)
    model = svfap.create_model("svfap_debug", task, **overrides).eval()
    for parameter in model.parameters():  # fresh biases are zero, which would hide a misplaced one
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def clips(batch: int, model, seed: int = 1) -> torch.Tensor:
    c = model.config
    return torch.randn(batch, 3, c.num_frames, c.img_size, c.img_size, generator=torch.Generator().manual_seed(seed))


def mask(batch: int, model, ratio: float = 0.75, seed: int = 2) -> TubeMask:
    return svfap.tube_mask(batch, model.config, ratio, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("overrides", [{}, {"stage_depths": (2,)}, {"num_bottleneck_tokens": (3, 1)}])
def test_hidden_pixels_cannot_leak(overrides):
    model = debug(**overrides)
    clip, tubes = clips(2, model), mask(2, model)
    c = model.config
    hidden = tubes.to_bool().view(2, 1, c.num_time_steps, c.grid_size, c.grid_size)
    for dim, size in ((2, c.tubelet_size), (3, c.patch_size), (4, c.patch_size)):
        hidden = hidden.repeat_interleave(size, dim)
    other = torch.where(hidden, torch.randn_like(clip) * 9, clip)
    assert (other != clip).any()
    assert torch.equal(model.encoder(clip, tubes), model.encoder(other, tubes))
    assert torch.equal(model(clip, tubes), model(other, tubes))


def test_visible_pixels_do_matter():
    model = debug()
    clip, tubes = clips(1, model), mask(1, model)
    assert not torch.equal(model.encoder(clip, tubes), model.encoder(clip + 0.1, tubes))


def test_nothing_masked_equals_no_mask():
    model = debug()
    clip = clips(2, model)
    nothing = TubeMask.from_bool(torch.zeros(2, model.config.num_tokens, dtype=torch.bool), model.config)
    assert torch.equal(model.encoder(clip, nothing), model.encoder(clip))


def test_coarse_stages_come_back_at_their_own_position():
    # A token's value says its time step and position; repeated along time it must keep both.
    tokens = (torch.arange(2)[:, None] * 100 + torch.arange(5)).float().view(1, 2, 5, 1)
    fine = upsample_time(tokens, 8)[0, :, :, 0]
    for step in range(8):
        assert fine[step].tolist() == [(step // 4) * 100 + position for position in range(5)]


def test_fused_stages_are_the_sum_of_the_stages():
    model = debug("features", fuse_stages=True)
    clip, seen = clips(1, model), []
    for stage in model.encoder.stages:
        stage.register_forward_hook(lambda _, __, output: seen.append(output))
    fused = model.encoder(clip)
    first, second, third = seen
    assert [x.shape[1] for x in seen] == [8, 4, 2]
    steps = torch.arange(8)
    expected = model.encoder.norm(first + second[:, steps // 2] + third[:, steps // 4])
    assert_close(fused, expected.flatten(1, 2))


def test_permuting_the_batch_permutes_the_output():
    model = debug()
    clip, tubes, order = clips(4, model), mask(4, model), torch.tensor([2, 0, 3, 1])
    reordered = TubeMask(tubes.visible[order], tubes.hidden[order])
    assert_close(model(clip[order], reordered), model(clip, tubes)[order], rtol=1e-5, atol=1e-6)


def test_bottleneck_maps_sum_to_one_over_positions():
    maps = SpatialBottleneck(32, 16, 3).maps(torch.randn(2, 4, 9, 32))
    assert maps.shape == (2, 4, 3, 9)
    assert_close(maps.sum(-1), torch.ones(2, 4, 3))


@pytest.mark.parametrize("task", ["pretraining", "features"])
def test_bf16_is_close_to_fp32(task):
    model = debug(task)
    clip = clips(2, model)
    args = (clip, mask(2, model)) if task == "pretraining" else (clip,)
    with torch.no_grad():
        exact = model(*args)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(*args).float()
    assert (rough - exact).norm() / exact.norm() < 2e-2


@pytest.mark.parametrize("preset", ["svfap_debug", "vit_tiny"])
def test_pretrained_encoder_loads_strictly_into_a_perceiver(preset):
    source = svfap.create_model(preset, "pretraining")
    target = svfap.create_model(preset, "classification", num_outputs=7)
    target.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    clip = clips(1, target)
    before = target.encoder(clip)
    source.encoder.norm.weight.data.fill_(3.0)  # the fused sum's norm has no part in the last stage's output
    target.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    assert torch.equal(before, target.encoder(clip))
    with pytest.raises(RuntimeError, match="stages"):
        target.encoder.load_state_dict({k: v for k, v in source.encoder.state_dict().items() if "stages.0" not in k})


def test_one_stage_is_a_plain_vit():
    names = {n.split(".")[0] for n, _ in svfap.create_model("vit_tiny", "features").encoder.named_parameters()}
    assert names == {"tubelet_embed", "stages"}
    assert not [n for n, _ in svfap.create_model("vit_tiny").named_parameters() if "bottleneck" in n or "cross" in n]


@pytest.mark.parametrize(("fused", "steps"), [(False, 2), (True, 8)])
def test_frame_level_output_interpolates_time_steps(fused, steps):
    model = debug("regression", num_outputs=3, frame_level=True, fuse_stages=fused)
    clip = clips(2, model)
    output = model(clip)
    assert output.shape == (2, 16, 3)
    tokens = model.encoder(clip)
    per_step = model.head(model.norm(tokens.unflatten(1, (steps, -1)).mean(2)))
    # Linear between the centres of the time steps, constant beyond the outermost.
    centres = (torch.arange(steps) + 0.5) * 16 / steps - 0.5
    for frame in range(16):
        place = ((frame - centres[0]) / (16 / steps)).clamp(0, steps - 1)
        low = int(place.floor().clamp(max=steps - 2))
        expected = per_step[:, low] + (place - low) * (per_step[:, low + 1] - per_step[:, low])
        assert_close(output[:, frame], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("activation", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_output_activation(activation, low, high):
    torch.manual_seed(0)
    plain = svfap.create_model("svfap_debug", "regression", num_outputs=2)
    bounded = svfap.create_model("svfap_debug", "regression", num_outputs=2, output_activation=activation)
    plain.head.weight.data.mul_(1e6)
    bounded.load_state_dict(plain.state_dict())
    clip = clips(3, plain)
    outputs = bounded.eval()(clip)
    assert_close(outputs, getattr(torch, activation)(plain.eval()(clip)))
    assert outputs.min() >= low
    assert outputs.max() <= high


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("pretraining", {"stage_depths": (1, 1, 1)}),  # each kind of layer once
        pytest.param("pretraining", {}, marks=pytest.mark.slow),
        pytest.param("regression", {"num_outputs": 2, "frame_level": True}, marks=pytest.mark.slow),
    ],
)
def test_compiles_to_one_graph(task, overrides):
    model = debug(task, **overrides)
    args = (clips(2, model), mask(2, model, None)) if task == "pretraining" else (clips(2, model),)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*args), model(*args), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_tube_mask_hides_the_same_positions_at_all_times():
    config = model_config("svfap_base", "pretraining")
    masked = svfap.tube_mask(5, config, 0.9, torch.Generator().manual_seed(0)).to_bool().view(5, 8, 100)
    assert (masked.sum(-1) == 90).all()
    assert (masked == masked[:, :1]).all()
    assert len({tuple(row) for row in masked[:, 0].tolist()}) == 5
    again = svfap.tube_mask(5, config, 0.9, torch.Generator().manual_seed(0)).to_bool().view(5, 8, 100)
    assert torch.equal(masked, again)


def test_a_mask_from_booleans_is_the_one_drawn():
    config = model_config("svfap_debug", "pretraining")
    drawn = svfap.tube_mask(3, config, 0.5)
    masked = drawn.to_bool()
    read = TubeMask.from_bool(masked, config)
    assert torch.equal(drawn.visible, read.visible)
    assert torch.equal(drawn.hidden, read.hidden)
    for row in range(3):
        assert drawn.visible[row].tolist() == (~masked[row]).nonzero().flatten().tolist()
        assert drawn.hidden[row].tolist() == masked[row].nonzero().flatten().tolist()


def test_the_draw_of_a_mask_is_fixed():
    # By seed: training's masks, and with them its losses, must not change from one version to the next.
    config = model_config("svfap_debug", "pretraining")
    rank = torch.rand(4, 16, generator=torch.Generator().manual_seed(7)).argsort(dim=1).argsort(dim=1)
    masked = svfap.tube_mask(4, config, 0.75, torch.Generator().manual_seed(7)).to_bool()
    assert torch.equal(masked, (rank < 12).repeat(1, 8))


def test_masks_that_are_no_tubes_are_refused():
    model = debug()
    masked = mask(2, model).to_bool()
    uneven = masked.clone()
    uneven[1, (~uneven[1]).nonzero()[0]] = True
    with pytest.raises(ValueError, match="of every clip"):
        TubeMask.from_bool(uneven, model.config)
    moving = masked.view(2, 8, -1).clone()
    moving[:, 3] = moving[:, 3].roll(1, dims=-1)
    with pytest.raises(ValueError, match="at all times"):
        TubeMask.from_bool(moving.flatten(1), model.config)
    with pytest.raises(ValueError, match="every tubelet"):
        TubeMask.from_bool(torch.ones_like(masked), model.config)
    with pytest.raises(ValueError, match=r"\(B, 128\)"):
        TubeMask.from_bool(masked[:, :-1], model.config)
    with pytest.raises(ValueError, match="expected clips"):
        model.encoder(clips(2, model)[:, :, :8])
    with pytest.raises(ValueError, match="nothing to predict"):
        model.loss(clips(2, model), TubeMask.from_bool(torch.zeros_like(masked), model.config))
    with pytest.raises(ValueError, match="expected a mask of 128 tubelets"):
        model(clips(2, model), svfap.tube_mask(2, model_config("svfap_base", "pretraining")))
    with pytest.raises(ValueError, match="at least one must stay"):
        svfap.tube_mask(2, model.config, 1.0)
    one_stage = model_config("svfap_debug", "pretraining", stage_depths=(2,))
    assert TubeMask.from_bool(moving.flatten(1), one_stage).hidden.shape == (2, 96)  # joins no time steps


def test_targets_are_standardised_pixels_of_the_hidden_tubelets():
    model = debug()
    clip, tubes = clips(1, model), mask(1, model)
    targets = model.targets(clip, tubes)
    first = int(tubes.hidden[0, 0])
    row, column = first // 4 % 4, first % 4
    pixels = model.denormalize(clip)[0, :, :2, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    flat = pixels.reshape(3, -1)
    expected = ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)).T
    assert_close(targets[0, 0].view(-1, 3), expected, rtol=1e-4, atol=1e-5)


def test_standardised_clips_differ_neither_in_light_nor_in_contrast():
    plain, model = (svfap.create_model("svfap_debug", "features", standardize_clips=s) for s in (False, True))
    model.load_state_dict(plain.state_dict())
    clip = clips(2, model)
    other = clip * torch.tensor([0.5, 2.0, 1.5]).view(3, 1, 1, 1) + torch.tensor([1.0, -1.0, 0.3]).view(3, 1, 1, 1)
    assert (plain(other) - plain(clip)).abs().max() > 0.1
    assert_close(model(other), model(clip), rtol=1e-2, atol=1e-2)
    assert model(torch.full_like(clip, 3.0)).isfinite().all()
    one_by_one = torch.cat([model(each[None]) for each in clip])
    assert_close(one_by_one, model(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_a_convolutional_stem_gives_the_tokens_of_the_linear_one_a_wider_view(tubelet_size):
    model = debug("features", stem="conv", tubelet_size=tubelet_size, standardize_clips=False)
    config, clip = model.config, clips(2, model)
    before = model.encoder.tubelet_embed(clip)
    assert before.shape == (2, config.num_tokens, config.embed_dim)
    other = clip.clone()
    other[:, :, tubelet_size, 8:16, 0:8] = 1.0  # row 1, column 0 of the second step, of 4 x 4 tubelets of 8 pixels
    # GroupNorm is over the frame, so all positions of that step change, and none of another step.
    changed = (model.encoder.tubelet_embed(other) != before).any(2).view(2, config.num_time_steps, -1)
    assert changed[:, 1].all() and changed.sum() == changed[:, 1].numel()
    assert_close(torch.cat([model(each[None]) for each in clip]), model(clip), rtol=1e-4, atol=1e-5)


def test_a_convolutional_stem_standardises_like_the_linear_one():
    model = svfap.create_model("svfap_debug", "features", stem="conv", standardize_clips=True)
    clip = clips(2, model)
    other = clip * torch.tensor([0.5, 2.0, 1.5]).view(3, 1, 1, 1) + torch.tensor([1.0, -1.0, 0.3]).view(3, 1, 1, 1)
    assert_close(model(other), model(clip), rtol=1e-2, atol=1e-2)


def test_a_convolutional_stem_is_refused_where_pixels_are_hidden():
    with pytest.raises(UserError, match="stem='conv' reads hidden pixels"):
        model_config("svfap_debug", "pretraining", stem="conv")
    with pytest.raises(UserError, match="patch_size=12 must be a power of two"):
        model_config("svfap_debug", "features", stem="conv", patch_size=12, img_size=48)
    model = debug("features", stem="conv")
    with pytest.raises(ValueError, match="reads every tubelet"):
        model.encoder(clips(1, model), mask(1, model))


def test_standardising_does_not_read_hidden_pixels():
    model = svfap.create_model("svfap_debug", "pretraining", standardize_clips=True)
    clip, tubes = clips(1, model), mask(1, model)
    size, hidden = model.config.patch_size, tubes.to_bool()[0].view(-1, 4, 4)[0]
    other = clip.clone()
    rows = hidden.repeat_interleave(size, 0).repeat_interleave(size, 1)
    other[..., rows] += 5.0
    assert torch.equal(model.encoder(other, tubes), model.encoder(clip, tubes))


def test_differences_are_those_of_each_frame_to_the_one_before():
    model = svfap.create_model("svfap_debug", "pretraining", target="difference")
    clip, tubes = clips(1, model), mask(1, model)
    pixels = model.denormalize(clip)[0]
    targets = model.targets(clip, tubes).view(-1, 2, 8, 8, 3)  # tubelet, frame, row, column, channel
    for number in (0, -1):  # of the first time step and the last
        index = int(tubes.hidden[0, number])
        time, row, column = 2 * (index // 16), index // 4 % 4 * 8, index % 4 * 8
        for frame in range(2):
            this = max(time + frame, 1)  # the first frame has that of the second
            change = (pixels[:, this] - pixels[:, this - 1])[:, row : row + 8, column : column + 8] / 0.05
            assert_close(targets[number, frame], change.permute(1, 2, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["pixels", "difference"])
def test_a_perfect_prediction_reconstructs_the_clip(monkeypatch, target):
    model = svfap.create_model("svfap_debug", "pretraining", target=target)
    pixels = torch.rand(2, 3, 16, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (model.config.pixel_mean, model.config.pixel_std))
    clip = (pixels - mean) / std
    monkeypatch.setattr(type(model), "forward", lambda self, c, tubes: self.targets(c, tubes))
    assert_close(model.reconstruct(clip, mask(2, model)), pixels, rtol=1e-4, atol=1e-5)


def test_positions_by_hand():
    positions = sincos_positions(3, 4)
    one = torch.tensor(1.0)
    assert_close(positions[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert_close(positions[1], torch.stack([one.sin(), one.cos(), (one / 100).sin(), (one / 100).cos()]))


def test_drop_path_rises_linearly_and_rests_in_eval():
    model = svfap.create_model("svfap_debug", "features", drop_path_rate=0.5)
    rates = [block.drop_path.rate for stage in model.encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    clip = clips(2, model)
    assert torch.equal(model.eval()(clip), model(clip))
    torch.manual_seed(0)
    assert not torch.equal(model.train()(clip), model(clip))


def test_positions_are_not_saved():
    assert not [name for name in svfap.create_model("svfap_debug", "pretraining").state_dict() if "positions" in name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"img_size": 100, "patch_size": 16}, "img_size=100 is not a multiple of patch_size=16"),
        ({"num_frames": 15}, "num_frames=15 is not a multiple of tubelet_size=2"),
        ({"num_frames": 12}, "6 time steps .* multiple of 8"),
        ({"embed_dim": 30, "num_heads": 4}, "embed_dim=30 is not a multiple of num_heads=4"),
        ({"stage_depths": (2, 0, 2)}, "every stage needs a block"),
        ({"num_bottleneck_tokens": (1, 2, 3)}, "one number for each of the 2 stages"),
        ({"output_activation": "relu"}, "none of none, sigmoid, tanh"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"img_size": "abc"}, "img_size='abc' must be a whole number"),
        ({"img_size": 64.0}, "img_size=64.0 must be a whole number"),
        ({"stage_depths": "222"}, "stage_depths"),
        ({"output_activation": "sigmoid"}, "output_activation='sigmoid' is for regression"),
        ({"num_head": 4}, "did you mean 'num_heads'"),
    ],
)
def test_numbers_that_do_not_fit_are_named(words, message):
    with pytest.raises(UserError, match=message):
        model_config("svfap_debug", "features", **words)


def test_unknown_preset_and_task_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'svfap_base'"):
        svfap.create_model("svfap_bas")
    with pytest.raises(UserError, match="did you mean 'classification'"):
        svfap.create_model("svfap_base", "clasification")
    with pytest.raises(UserError, match="num_outputs"):
        svfap.create_model("svfap_base", "classification")


@pytest.mark.parametrize(
    "words",
    [
        {"num_frames": 8, "stage_depths": (1, 2, 1)},
        {"num_frames": 32, "tubelet_size": 4, "temporal_kernel_size": 2},
        {"num_frames": 18, "temporal_kernel_size": 3},
        {"stage_depths": (1, 1)},
        {"stage_depths": (1, 1, 1, 1), "num_bottleneck_tokens": (4, 2, 1)},
        {"img_size": 24, "patch_size": 4, "num_bottleneck_tokens": 5},
    ],
)
def test_any_sizes_that_divide(words):
    model = svfap.create_model("svfap_debug", "pretraining", **words)
    clip, tubes = clips(2, model), mask(2, model, 0.5)
    prediction = model(clip, tubes)
    assert prediction.shape == (2, tubes.hidden.shape[1], model.config.tubelet_dim)
    model.loss(clip, tubes).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# The paper's own counts (Sec. IV-B; its tables are in test_complexity.py), in millions and 10^9 multiply-adds.


@pytest.mark.parametrize(
    ("preset", "parameters", "multiply_adds"),
    [("svfap_base", 77.6, 43.6), ("svfap_small", 30, 18), ("videomae_base", 86, 81)],
)
def test_size_and_cost_of_fine_tuning(preset, parameters, multiply_adds):
    cost = complexity(model_config(preset, "features"))
    assert cost.parameters / 1e6 == pytest.approx(parameters, rel=0.015)
    assert cost.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.005)
    assert sum(cost.by_part.values()) == cost.multiply_adds_done == cost.multiply_adds


def test_hidden_tubelets_are_not_embedded():
    cost = complexity(model_config("svfap_debug", "pretraining"))
    hidden = model_config("svfap_debug", "pretraining").num_masked_positions() * 8
    assert cost.multiply_adds - cost.multiply_adds_done == hidden * 2 * 8 * 8 * 3 * 32
