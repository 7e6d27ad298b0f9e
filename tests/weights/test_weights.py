"""Saving, loading, and every way in which a checkpoint can be wrong."""

from __future__ import annotations

import argparse
import json
import pickle

import pytest
import torch

import svfap
from svfap.errors import UserError
from svfap.weights.folder import init_encoder
from svfap.weights.published import export_published

SIZES = {"num_heads": 2, "img_size": 32, "num_frames": 16, "stage_depths": (2, 2, 2)}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return svfap.create_model(
        "svfap_debug", "classification", label_names=("happy", "sad"), sampling_stride=2, provenance={"by": "test"}
    ).eval()


@pytest.fixture
def published(classifier):
    """A fine-tuned checkpoint as the published code writes one."""
    args = argparse.Namespace(num_frames=16, input_size=32, stage_depths=[2, 2, 2], sampling_rate=2)
    return {"model": export_published(classifier), "epoch": "best", "args": args}


def test_saved_folder_loads_the_same_model(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    clip = torch.randn(1, 3, 16, 32, 32)
    for loaded in (svfap.load_model(tmp_path), svfap.Perceiver.from_pretrained(tmp_path)):
        assert loaded.config == classifier.config
        assert loaded.config.label_names == ("happy", "sad")
        assert torch.equal(loaded(clip), classifier(clip))
    words = json.loads((tmp_path / "config.json").read_text())
    assert words["sampling_stride"] == 2
    assert words["provenance"] == {"by": "test"}
    assert not list(tmp_path.glob("*.bin")), "weights must not be pickled"


@pytest.mark.parametrize("task", ["classification", "pretraining"])
def test_loading_draws_no_weights_and_fills_every_tensor(task, tmp_path):
    model = svfap.create_model("svfap_debug", task, **({"num_outputs": 2} if task == "classification" else {}))
    model.half().save_pretrained(tmp_path)  # a file of another type is converted
    expected = {**model.float().state_dict(), **dict(type(model)(model.config).named_buffers())}
    drawn = torch.get_rng_state()
    for loaded in (svfap.load_model(tmp_path), type(model).from_pretrained(tmp_path)):
        assert torch.equal(torch.get_rng_state(), drawn)
        assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32} and not loaded.training
        assert all(p.requires_grad and p.is_leaf and p.is_contiguous() for p in loaded.parameters())
        found = {**loaded.state_dict(), **dict(loaded.named_buffers())}
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        assert not any(name.endswith("positions") for name in loaded.state_dict())


def test_a_loaded_model_shares_no_memory_with_its_tensors(published):
    loaded = svfap.import_published(published)
    before = loaded.head.weight.clone()
    for tensor in published["model"].values():
        tensor.zero_()
    assert torch.equal(loaded.head.weight, before) and before.any()


def test_run_folder_loads_its_best(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "best")
    assert torch.equal(svfap.load_model(tmp_path).head.weight, classifier.head.weight)


def test_a_model_on_the_hub_loads_as_a_folder_does(classifier, tmp_path, monkeypatch):
    classifier.save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name: str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    loaded = svfap.load_model("owner/name")
    assert loaded.config == classifier.config and not loaded.training
    assert torch.equal(loaded.head.weight, classifier.head.weight)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="does not fit its config.json"):
        svfap.load_model("owner/name")


def test_wrong_class_for_the_task_is_named(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="task='classification'"):
        svfap.MaskedAutoencoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "model.safetensors").write_bytes(b"junk"), "does not fit"),
        (lambda d: (d / "config.json").write_text("{"), "not a model config"),
        (lambda d: (d / "config.json").write_text("[]"), "not a model config"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: edit(d / "config.json", embed_dim=64), "does not fit"),
        (lambda d: edit(d / "config.json", embed_dims=64), "unknown settings embed_dims"),
        (lambda d: edit(d / "config.json", img_size=33), "img_size=33"),
    ],
)
def test_damaged_folders(classifier, tmp_path, damage, message):
    classifier.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        svfap.load_model(tmp_path)


def edit(path, **words):
    path.write_text(json.dumps(json.loads(path.read_text()) | words))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        svfap.load_model(tmp_path / "missing")
    (tmp_path / "file.pth").touch()
    with pytest.raises(UserError, match=r"file\.pth: not a checkpoint"):
        svfap.load_model(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("runs/pretrainn", [], "model=runs/pretrainn: no such folder or checkpoint"),  # runs/ is a folder here
        (
            "hf://runs/pretrain",
            ["runs/pretrain"],
            "model=hf://runs/pretrain: no such folder, and not available on the Hub",
        ),
        ("owner/name", ["owner/name"], "model=owner/name: no such folder, and not available on the Hub"),
    ],
)
def test_a_name_that_nothing_has_is_looked_up_once_and_never_downloaded(name, asked, message, tmp_path, monkeypatch):
    urls = []

    def no_answer(url, timeout):
        urls.append((url, timeout <= 5))
        raise OSError("no network")

    def download(*_, **__):
        raise AssertionError("the Hub's client downloads, and tries again and again")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_answer)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{message}"):
        svfap.load_model(name)
    assert urls == [(f"https://huggingface.co/{repository}/resolve/main/config.json", True) for repository in asked]


def test_overrides_of_a_saved_model_need_a_task(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="to change num_outputs give task as well"):
        svfap.load_model(tmp_path, num_outputs=7)


def test_load_model_takes_published_files(classifier, published, tmp_path):
    torch.save(published, tmp_path / "official.pth")
    clip = torch.randn(1, 3, 16, 32, 32)
    with torch.no_grad():
        assert torch.equal(svfap.load_model(tmp_path / "official.pth")(clip), classifier(clip))
    features = svfap.load_model(tmp_path / "official.pth", task="features", sampling_stride=3)
    assert (features.config.task, features.config.sampling_stride) == ("features", 3)


def test_encoder_of_another_shape_is_named(classifier):
    source = svfap.create_model("svfap_debug", "pretraining", embed_dim=64)
    with pytest.raises(UserError, match="embed_dim: 64 there, 32 here"):
        init_encoder(classifier, source)


def test_init_encoder_copies_all_but_norm_and_head(classifier):
    source = svfap.create_model("svfap_debug", "pretraining")
    assert init_encoder(classifier, source) == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    name = "stages.2.blocks.1.cross_attn.q.weight"
    assert torch.equal(classifier.encoder.state_dict()[name], source.encoder.state_dict()[name])


@pytest.mark.parametrize("wrap", ["plain", "module key", "module prefix", "backbone prefix", "both prefixes"])
def test_published_forms_of_a_state_dict(classifier, published, wrap):
    state = published["model"]
    prefix = {"module prefix": "module.", "backbone prefix": "backbone.", "both prefixes": "module.backbone."}.get(
        wrap, ""
    )
    state = {prefix + name: tensor for name, tensor in state.items()}
    contents = {"module": state} if wrap == "module key" else state
    model = svfap.import_published(contents, **SIZES)
    clip = torch.randn(1, 3, 16, 32, 32)
    assert torch.equal(model(clip), classifier(clip))


def test_args_and_presets_tell_what_tensors_cannot(classifier, published, tmp_path):
    torch.save(published, tmp_path / "official.pth")
    model = svfap.import_published(tmp_path / "official.pth")  # svfap_debug fits, and knows the heads
    assert model.config.num_heads == 2
    assert model.config.sampling_stride == 2
    assert model.config.provenance == {"imported_from": str(tmp_path / "official.pth"), "epoch": "best"}


def test_what_nothing_tells_is_asked_for():
    odd = export_published(
        svfap.create_model(
            "svfap_debug", "classification", num_outputs=2, embed_dim=40, num_heads=4, stage_depths=(2, 1, 2)
        )
    )
    sizes = {"num_heads": 4, "img_size": 32, "num_frames": 16, "stage_depths": (2, 1, 2)}
    for word in sizes:
        given = {w: v for w, v in sizes.items() if w != word}
        with pytest.raises(UserError, match=f"do not show {word}; pass {word}="):
            svfap.import_published(odd, **given)
    assert svfap.import_published(odd, **sizes).config.num_outputs == 2


def test_every_tensor_is_used_and_every_parameter_filled(published):
    state = dict(published["model"])
    state["extra.weight"] = torch.zeros(1)
    del state["blocks.1.attn.proj.bias"]
    state["fc_norm.weight"] = torch.zeros(7)
    with pytest.raises(UserError) as error:
        svfap.import_published(state, **SIZES)
    message = str(error.value)
    assert "parameters left empty: encoder.stages.0.blocks.1.attn.proj.bias" in message
    assert "tensors left over: extra.weight" in message
    assert "fc_norm.weight (7,) for norm.weight (32,)" in message


def test_wrong_number_of_outputs_is_an_error(published):
    with pytest.raises(UserError, match=r"its head has 2 outputs, not 5; was it fine-tuned on another dataset"):
        svfap.import_published(published, num_outputs=5)
    with pytest.raises(UserError, match=r"its head has 2 outputs, not 3 \(a, b, c\)"):
        svfap.import_published(published, label_names=("a", "b", "c"))


@pytest.mark.parametrize("name", ["blocks.0.mlp.fc1.weight", "temporal_downsamples.0.weight", "blocks.3.norm1.bias"])
def test_a_missing_tensor_is_named(published, name):
    state = {n: t for n, t in published["model"].items() if n != name}
    with pytest.raises(UserError, match="does not fit the model") as error:
        svfap.import_published(state, **SIZES)
    assert name in str(error.value) or "stages.1.blocks.1.norm1.bias" in str(error.value)


def test_foreign_tensors_in_a_pretrained_file_are_not_passed_over():
    state = export_published(svfap.create_model("svfap_debug", "pretraining"))
    task = dict(task="classification", num_outputs=2, **SIZES)
    assert svfap.import_published(state, **task).config.num_outputs == 2
    with pytest.raises(UserError, match="tensors left over: foo.weight"):
        svfap.import_published({**state, "foo.weight": torch.zeros(1)}, **task)


def test_load_model_for_another_task_keeps_the_encoder(tmp_path):
    source = svfap.create_model("svfap_debug", "pretraining")
    source.save_pretrained(tmp_path)
    features = svfap.load_model(tmp_path, task="features")
    assert features(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 32)
    assert torch.equal(features.encoder.tubelet_embed.weight, source.encoder.tubelet_embed.weight)
    assert isinstance(svfap.Model.from_pretrained(tmp_path), svfap.MaskedAutoencoder)


@pytest.mark.parametrize("fused", [False, True])
def test_features_of_a_fine_tuned_model_are_what_its_head_reads(fused, tmp_path, caplog):
    source = svfap.create_model("svfap_debug", "classification", num_outputs=3, fuse_stages=fused).eval()
    for parameter in source.norm.parameters():
        torch.nn.init.normal_(parameter)
    source.save_pretrained(tmp_path)
    clip = torch.randn(2, 3, 16, 32, 32)
    features = svfap.load_model(tmp_path, task="features")
    assert torch.equal(features(clip), source.features(clip))
    assert "are new" not in caplog.text
    svfap.convert(tmp_path, tmp_path / "theirs.pth")
    assert torch.equal(
        svfap.load_model(tmp_path / "theirs.pth", task="features", img_size=32)(clip), source.features(clip)
    )


class Hostile:
    def __reduce__(self):
        return (eval, ("print('this ran')",))


def test_a_file_that_would_run_code_is_refused(published, tmp_path, capsys):
    torch.save({**published, "optimizer": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match="refused: reading it would execute code"):
        svfap.import_published(tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="raw.pth"):
        svfap.import_published(tmp_path / "raw.pth")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_files_that_are_no_checkpoints(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"broken.pth: not a checkpoint"):
        svfap.import_published(tmp_path / "broken.pth")


def test_other_contents(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        svfap.import_published(tmp_path / "list.pth")
    with pytest.raises(UserError, match="no patch_embed"):
        svfap.import_published({"model": {"a": torch.zeros(1)}})
    with pytest.raises(UserError, match="no such file"):
        svfap.import_published(tmp_path / "missing.pth")
