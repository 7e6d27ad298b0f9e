"""What regression minimises against SciPy and by hand, the scale of labels, and the weights of classes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.utils.class_weight import compute_class_weight

import svfap
from svfap.data.order import sharded_batches
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.losses import balanced_weights, ccc_loss, label_scale, pcc_loss

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0)


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.normal(0.3, 0.5, (40, 3))
    predictions = targets * [0.5, 1.0, -0.2] + rng.normal(0.1, 0.3, (40, 3))
    return torch.tensor(predictions, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def test_pcc_is_scipys():
    predictions, targets = pairs()
    expected = np.mean([pearsonr(predictions[:, k], targets[:, k]).statistic for k in range(3)])
    assert pcc_loss(predictions, targets).item() == pytest.approx(1 - expected, abs=1e-5)


def test_ccc_by_hand():
    # Means 2 and 3, population variances 2/3 and 8/3, covariance 4/3: 2 · 4/3 / (2/3 + 8/3 + 1) = 8/13.
    predictions, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    assert ccc_loss(predictions, targets).item() == pytest.approx(1 - 8 / 13, abs=1e-6)
    both = torch.cat([predictions, targets], 1), torch.cat([targets, targets], 1)  # a second dimension that is right
    assert ccc_loss(*both).item() == pytest.approx((1 - 8 / 13) / 2, abs=1e-6)
    assert ccc_loss(-targets + 6, targets).item() == pytest.approx(2, abs=1e-6)  # same mean, opposite


@pytest.mark.parametrize("loss", [ccc_loss, pcc_loss])
def test_constant_batches_have_a_defined_loss_and_gradient(loss):
    varied = torch.tensor([[0.1], [0.5], [0.9]])
    constant = torch.full((3, 1), 0.4)
    for predictions, targets in (
        (constant, constant),
        (constant, varied),
        (varied, constant),
        (varied[:1], varied[1:2]),
    ):
        predictions = predictions.clone().requires_grad_()
        value = loss(predictions, targets)
        assert value.item() == pytest.approx(1.0)
        (gradient,) = torch.autograd.grad(value, predictions)
        assert gradient.isfinite().all()
    predictions = constant.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(predictions, varied), predictions)
    assert gradient[0] > 0 > gradient[2]  # from a constant prediction it goes towards the labels


@pytest.mark.parametrize("loss", [ccc_loss, pcc_loss])
def test_the_gradient_is_that_of_differences(loss):
    predictions, targets = (x.double() for x in pairs())
    assert torch.autograd.gradcheck(lambda p: loss(p, targets), predictions.requires_grad_())


def test_scale_of_labels():
    values = np.array([[1.0, 10], [2, 20], [3, 60]])
    scale, offset = label_scale(values, "standardize")
    np.testing.assert_allclose((values - offset) / scale, (values - values.mean(0)) / values.std(0))
    assert label_scale(values, "none") == ((), ())
    for activation, low, high in (("sigmoid", 0, 1), ("tanh", -1, 1), ("none", -1, 1)):
        scale, offset = label_scale(values, "range", activation)
        np.testing.assert_allclose(np.array([[low, low], [high, high]]) * scale + offset, [[1, 10], [3, 60]])
        scale, offset = label_scale(values, "range", activation, (0.0, 100.0))
        np.testing.assert_allclose(np.array([[low, low], [high, high]]) * scale + offset, [[0, 0], [100, 100]])
    with pytest.raises(UserError, match="use range, or output_activation=none"):
        label_scale(values, "standardize", "tanh")
    values[:, 1] = 7
    with pytest.raises(UserError, match="labels of arousal do not vary"):
        label_scale(values, "standardize", dimensions=("valence", "arousal"))


def test_class_weights_are_scikit_learns():
    labels = np.array([0] * 6 + [2] * 3 + [3])
    weights = balanced_weights(np.bincount(labels, minlength=5).astype(float))
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 2, 3]], expected, rtol=1e-6)
    assert weights[[1, 4]].tolist() == [0, 0]
    assert weights[labels].mean() == pytest.approx(1)


def finetuning(faces, out, **words) -> FinetuneConfig:
    quick = {**QUICK, "manifest": faces / "train.csv", "val_manifest": faces / "val.csv", "epochs": 1, "batch_size": 7}
    plain = dict(rand_augment=False, erase_rate=0, flip_rate=0, drop_path_rate=0)
    return FinetuneConfig(**{**quick, **plain, "out": out, **words})


def loss_and_gradient(config: FinetuneConfig) -> tuple[float, torch.Tensor, FinetuneTask]:
    """Of the first batch, at the initial weights."""
    task = FinetuneTask(config)
    batch = task.dataset.collate([task.dataset[i] for i in range(7)])
    (loss,) = task.losses(task.model, batch, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, task.model.head.weight)
    return loss.item(), gradient, task


def test_the_gradient_does_not_depend_on_the_labels_units(faces, tmp_path):
    """Labels in other units, scaled: the same loss and the same steps, and predictions in the labels' units."""
    table = pd.read_csv(faces / "train.csv")
    table[["valence", "arousal"]] = table[["valence", "arousal"]] * 40 + 50
    table["path"] = [str(faces / path) for path in table["path"]]
    table.to_csv(tmp_path / "percent.csv", index=False)
    words = dict(task="regression", dimensions=["valence", "arousal"], label_scaling="standardize")
    loss, gradient, _ = loss_and_gradient(finetuning(faces, tmp_path, **words))
    words |= dict(manifest=tmp_path / "percent.csv")
    other_loss, other_gradient, task = loss_and_gradient(finetuning(faces, tmp_path, **words))
    assert other_loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(task.model.config.output_offset, table[["valence", "arousal"]].mean(), rtol=1e-5)
    outputs = task.model.eval()(torch.zeros(1, 3, 16, 32, 32))[0].detach()
    np.testing.assert_allclose(outputs, table[["valence", "arousal"]].mean(), atol=0.5)  # the head starts near zero
    unscaled, *_ = loss_and_gradient(finetuning(faces, tmp_path, **{**words, "label_scaling": "none"}))
    assert unscaled > 100 * loss


@pytest.mark.parametrize("loss", ["ccc", "pcc"])
def test_training_with_correlations(faces, tmp_path, loss):
    words = dict(task="regression", dimensions=["valence"], loss=loss, label_scaling="range", output_activation="tanh")
    result = finetune(finetuning(faces, tmp_path / "run", **words, label_range=(-2.0, 2.0)))
    assert result.metrics["last_validation"]["num_evaluated"] == 7
    config = svfap.load_model(tmp_path / "run").config
    assert (config.output_scale, config.output_offset) == ((2.0,), (0.0,))


def test_a_correlation_needs_two_clips_on_every_process(faces, tmp_path, monkeypatch):
    words = dict(task="regression", dimensions=["valence"], loss="ccc", batch_size=4)
    finetuning(faces, tmp_path, **words)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as torchrun says it
    with pytest.raises(UserError, match="loss=ccc: needs at least 2 clips in a micro-batch"):
        finetuning(faces, tmp_path, **words)


def test_mixing_of_values_is_off_until_asked_for(faces, tmp_path):
    def task(**words) -> FinetuneTask:
        return FinetuneTask(finetuning(faces, tmp_path, **words))

    classes, values = task(), task(task="regression", dimensions=["valence"])
    assert (classes.config.mixup, classes.config.cutmix) == (0.8, 1.0)
    assert (values.config.mixup, values.config.cutmix) == (0.0, 0.0)
    mixed = task(task="regression", dimensions=["valence"], mixup=0.8)
    seen = {}
    for name, each in (("plain", values), ("mixed", mixed)):
        batch = each.dataset.collate([each.dataset[i] for i in range(2)])
        truth = batch["values"].clone()

        def model(clips, name=name):
            seen[name] = clips
            return torch.zeros(2, 1)

        (loss,) = each.losses(model, batch, torch.Generator().manual_seed(3))
        if name == "plain":
            assert loss.item() == pytest.approx(truth.square().mean().item(), rel=1e-5)
    share = torch.linalg.lstsq(
        torch.stack([seen["plain"][0].flatten(), seen["plain"][1].flatten()], 1), seen["mixed"][0].flatten()
    ).solution
    assert share.sum().item() == pytest.approx(1, abs=1e-3)
    mixed_truth = torch.stack([share @ truth[:, 0], share.flip(0) @ truth[:, 0]])
    assert loss.item() == pytest.approx(mixed_truth.square().mean().item(), rel=1e-3)


def test_class_weights_count_in_the_loss(faces, tmp_path):
    table = pd.read_csv(faces / "train.csv").iloc[:20]  # classes of 3, and one of 2
    table["path"] = [str(faces / path) for path in table["path"]]
    table.to_csv(tmp_path / "few.csv", index=False)
    words = dict(manifest=tmp_path / "few.csv", mixup=0, cutmix=0, smoothing=0, class_weights="balanced")
    task = FinetuneTask(finetuning(faces, tmp_path, **words))
    batch = task.dataset.collate([task.dataset[i] for i in range(20)])
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    (loss,) = task.losses(lambda clips: logits, batch, torch.Generator())
    weights = compute_class_weight("balanced", classes=np.arange(7), y=batch["label"].numpy())[batch["label"]]
    by_hand = -(torch.tensor(weights) * logits.log_softmax(1)[torch.arange(20), batch["label"]]).mean()
    assert len(set(weights)) > 1
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_balanced_epochs():
    labels = np.random.default_rng(0).permutation([0] * 70 + [1] * 25 + [2] * 5)
    options = dict(shuffle=True, seed=3, labels=labels)
    batches = sharded_batches(100, 10, epoch=1, **options)
    drawn = np.concatenate(batches)
    assert sorted(np.bincount(labels[drawn % 100])) == [33, 33, 34]
    assert len(set(drawn)) == 100  # who comes again has another number, and so another clip and crop
    rare = drawn[labels[drawn % 100] == 2]
    assert set(np.bincount(rare % 100)[np.flatnonzero(labels == 2)]) <= {6, 7}
    ranks = [sharded_batches(100, 5, epoch=1, rank=rank, world_size=2, **options) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == batches
    assert sharded_batches(100, 10, epoch=1, start_batch=4, **options) == batches[4:]
    assert sharded_batches(100, 10, epoch=2, **options) != batches


def test_a_sample_drawn_again_is_the_same_video_otherwise_sampled(faces, tmp_path):
    task = FinetuneTask(finetuning(faces, tmp_path, balanced_sampling=True))
    pairs = [(task.dataset[i], task.dataset[i + len(task.dataset)]) for i in range(4)]
    assert all(first.sample == again.sample and first.index == again.index for first, again in pairs)
    assert not all(np.array_equal(first.frames, again.frames) for first, again in pairs)
    with pytest.raises(UserError, match="balanced_sampling=True: is for classification"):
        FinetuneTask(finetuning(faces, tmp_path, task="regression", balanced_sampling=True))


def test_balanced_sampling_trains_as_many_steps(faces, tmp_path):
    finetune(finetuning(faces, tmp_path / "run", balanced_sampling=True))
    assert json.loads((tmp_path / "run" / "last" / "state.json").read_text())["step"] == 4
