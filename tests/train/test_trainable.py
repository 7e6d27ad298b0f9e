"""What fine-tuning trains: all, the head, the last blocks, or adapters that are merged when the model is saved."""

from __future__ import annotations

import builtins
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small_runs import PLAIN, finetuning, log, pretraining
from stopped_runs import stopped_in_step

import svfap
from svfap.errors import UserError
from svfap.model.build import create_model
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.loop import TrainingRun
from svfap.train.optim import layer_of
from svfap.train.pretrain import pretrain
from svfap.train.trainable import Trainable, count_parameters, plain_weights

DEPTHS = (2, 2, 2)  # of svfap_debug; its layers are 0 (the embedding) to 7 (the head)
LARGE_RATE = dict(base_lr=1.0, layer_decay=1.0)


def changed_layers(before: svfap.Model, after: svfap.Model) -> set[int]:
    """The layers of which any parameter differs."""
    theirs = after.state_dict()
    names = [name for name, value in before.state_dict().items() if not torch.equal(value, theirs[name])]
    return {layer_of(name, DEPTHS, "depth") for name in names}


@pytest.fixture(scope="module")
def encoder(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("trainable") / "pretrained"
    pretrain(pretraining(faces, out, epochs=1, previews=0))
    return out


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        ("all", set(range(8))),
        ("head", {7}),
        ("last:1", {6, 7}),
        ("last:4", {3, 4, 5, 6, 7}),
        ("lora", set(range(1, 8))),
    ],
)
def test_only_the_layers_that_are_named_change(trainable, trained, encoder, faces, tmp_path):
    config = finetuning(faces, tmp_path / "run", init=str(encoder), trainable=trainable, epochs=1, **LARGE_RATE)
    torch.manual_seed(config.seed)
    before = FinetuneTask(replace(config, trainable="all")).model
    metrics = finetune(config).metrics
    after = svfap.load_model(config.out)
    assert changed_layers(before, after) == trained
    assert metrics["parameters"] == sum(p.numel() for p in before.parameters())
    assert (metrics["trained_parameters"] == metrics["parameters"]) == (trainable == "all")


def test_a_run_with_adapters_is_an_ordinary_model_with_the_outputs_of_its_last_epoch(encoder, faces, tmp_path):
    """And its biases, norms and embedding are those of the encoder."""
    config = finetuning(
        faces, tmp_path / "run", init=str(encoder), trainable="lora", val_manifest=None, val_fraction=0,
        lora_rank=3, **LARGE_RATE, **PLAIN,
    )  # fmt: skip
    task = FinetuneTask(config)
    run = TrainingRun(task, task.config)
    run.train()
    model = svfap.load_model(config.out)
    fresh = create_model("svfap_debug", "classification", num_outputs=model.config.num_outputs)
    assert model.state_dict().keys() == fresh.state_dict().keys()
    clips = torch.randn(2, 3, 16, 32, 32)
    with torch.no_grad():
        outputs = task.model.eval()(clips)
        torch.testing.assert_close(model(clips), outputs)
        assert not torch.allclose(svfap.load_model(encoder, "features")(clips), model.features(clips), atol=1e-3)
    first = svfap.load_model(encoder).encoder.state_dict()
    changed = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, first[name])}
    assert changed and all(name.endswith(".weight") and ".blocks." in name and "norm" not in name for name in changed)


def test_adapters_change_nothing_before_the_first_step_and_have_the_scale_that_is_asked_for(encoder, faces, tmp_path):
    clips = torch.randn(2, 3, 16, 32, 32)
    whole = FinetuneTask(finetuning(faces, tmp_path, init=str(encoder))).model.eval()
    adapted = FinetuneTask(
        finetuning(faces, tmp_path, init=str(encoder), trainable="lora", lora_rank=4, lora_alpha=2.0)
    ).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(clips), whole(clips))
        layer = adapted.encoder.stages[1].blocks[0].cross_attn.kv
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape == (4, 32) and b.shape == (64, 4)
        b.normal_()
        merged = plain_weights(adapted)["encoder.stages.1.blocks.0.cross_attn.kv.weight"]
        torch.testing.assert_close(merged, layer.base_layer.weight + 0.5 * b @ a)


def test_a_run_with_adapters_that_was_stopped_goes_on_as_if_it_had_not(encoder, faces, tmp_path):
    settings = dict(init=str(encoder), trainable="lora", ema_decay=0.5)
    whole, halves = (finetuning(faces, tmp_path / name, **settings) for name in ("whole", "halves"))
    finetune(whole)
    with stopped_in_step(4):
        assert not finetune(halves).finished
    finetune(replace(halves, resume=True))
    assert [line["loss"] for line in log(halves.out)] == [line["loss"] for line in log(whole.out)]
    with pytest.raises(UserError, match="has adapters apart from the weights; best/ of the run"):
        svfap.load_model(halves.out / "last")
    ours, theirs = (svfap.load_model(config.out).state_dict() for config in (halves, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layers_join_one_after_another(encoder, faces, tmp_path, monkeypatch):
    """From the head down to what is trained at all; one that waits has no step, no weight decay and drops no paths."""
    config = finetuning(
        faces, tmp_path / "run", init=str(encoder), trainable="last:2", unfreeze_every=2, epochs=6, weight_decay=0.5,
        val_manifest=None, val_fraction=0, **LARGE_RATE,
    )  # fmt: skip
    states, real = [], Trainable.begin_epoch
    dropping = []

    def noting(self, epoch):
        real(self, epoch)
        states.append(type(self.model).with_weights(self.model.config, self.model.state_dict()))
        dropping.append([block.training for stage in self.model.encoder.stages for block in stage.blocks])

    monkeypatch.setattr(Trainable, "begin_epoch", noting)
    finetune(config)
    changed = [changed_layers(*pair) for pair in pairwise(states)]
    assert changed == [{7}, {7}, {6, 7}, {6, 7}, {5, 6, 7}]
    assert (
        dropping[0] == [False] * 6 and dropping[3] == [False] * 5 + [True] and dropping[5] == [False] * 4 + [True] * 2
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": "last:7"}, "last:N with N from 1 to 6"),
        ({"trainable": "last:0"}, "must be all, head, lora, or last:N"),
        ({"trainable": "half"}, "must be all, head, lora, or last:N"),
        ({"lora_rank": 4}, "^lora_rank=4: is of adapters, which come with trainable=lora"),
        ({"lora_alpha": 4.0}, "^lora_alpha=4.0: is of adapters, which come with trainable=lora"),
        ({"trainable": "lora", "lora_rank": 33}, "must be at most 32, the smallest size"),
        ({"trainable": "lora", "lora_rank": 17, "model": {"mlp_ratio": 0.5}}, "must be at most 16"),
        ({"trainable": "lora", "lora_alpha": 0.0}, "must be a number above 0"),
        ({"trainable": "lora", "lora_rank": 0}, "lora_rank=0"),
        ({"unfreeze_every": 0}, "unfreeze_every=0"),
        ({"trainable": "head", "unfreeze_every": 1}, "nothing to unfreeze"),
        ({"compile": True, "unfreeze_every": 1}, "wants the same layers; leave one out"),
        (
            {"unfreeze_every": 5, "epochs": 15},
            "in 15 epochs only 2 of the 7 layers .*all do with unfreeze_every=2, or with trainable=last:2",
        ),
        ({"trainable": "lora", "unfreeze_every": 3, "epochs": 7}, "only 2 of the 6 layers .*unfreeze_every=1$"),
        ({"unfreeze_every": 1, "epochs": 2}, "only 1 of the 7 layers .*epochs=8 and unfreeze_every=1, or"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: must be from 0 to less than 1"),
        ({"smoothing": 1.0}, "smoothing=1.0: must be from 0 to less than 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0: must be from 0 to less than 1"),
        ({"layer_decay": 0.0}, "layer_decay=0.0: must be more than 0"),
        ({"clip_grad": 0.0}, "clip_grad=0.0: must be more than 0"),
        ({"betas": (0.9, 1.0)}, "betas=.*both must be from 0 to less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        FinetuneConfig(out="run", manifest="m.csv", preset="svfap_debug", **settings)


@pytest.mark.parametrize("trainable", ["last:2", "lora"])
def test_the_line_at_the_start_says_what_is_trained_and_when(trainable, encoder, faces, tmp_path, capsys):
    """In the numbers of metrics.json."""
    epochs = {"last:2": 5, "lora": 13}[trainable]
    config = finetuning(
        faces, tmp_path, init=str(encoder), trainable=trainable, unfreeze_every=2, epochs=epochs, preset="svfap_debug"
    )
    task = FinetuneTask(config)
    said = capsys.readouterr().err
    trained, everything = count_parameters(task.model)
    layers = {"last:2": 2, "lora": 6}[trainable]
    assert f"trained: {trained / 1e6:.3g} of {everything / 1e6:.3g} million parameters" in said
    assert everything == sum(
        value.numel()
        for value in FinetuneTask(replace(config, trainable="all", unfreeze_every=None)).model.parameters()
    )
    assert (
        "the head alone until epoch 2, then one layer more every 2 epochs, "
        f"{layers} layers in all from epoch {2 * layers + 1} on" in said
    )
    task.begin_epoch(epochs - 1)
    assert count_parameters(task.model)[0] < trained
    task.begin_epoch(epochs)
    assert count_parameters(task.model)[0] == trained


def test_a_missing_peft_names_the_extra(faces, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"trainable=lora: needs the package peft.*svfap\[lora\]"):
        FinetuneTask(finetuning(faces, tmp_path, trainable="lora"))
