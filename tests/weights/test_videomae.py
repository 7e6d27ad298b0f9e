"""VideoMAE's published checkpoints, in both namings, against transformers' VideoMAE with the same random weights."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

import svfap
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.train.initial import read_initial
from svfap.weights.folder import init_encoder
from svfap.weights.names import from_transformers
from svfap.weights.published import export_published

transformers = pytest.importorskip(
    "transformers", reason="transformers, of the dev extra, is not installed: no VideoMAE"
)

SMALL = dict(
    **dict(image_size=32, patch_size=8, num_frames=8, hidden_size=48, num_hidden_layers=3, num_attention_heads=4),
    **dict(intermediate_size=192, decoder_hidden_size=24, decoder_num_attention_heads=3, decoder_num_hidden_layers=2),
    decoder_intermediate_size=96,
)
WORDS = dict(num_heads=4, img_size=32, num_frames=8)
EPS = 1e-6  # of the published code; transformers has 1e-12, and 1e-5 in some norms
CLOSE = dict(rtol=1e-5, atol=1e-5)


def reference(kind: str, mean_pooling: bool, **sizes):
    """transformers' model with random weights, biases and norms included, and the published code's eps."""
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(**sizes, layer_norm_eps=EPS, use_mean_pooling=mean_pooling)
    model = getattr(transformers, kind)(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = EPS
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "classifier" in name:
            parameter.data *= 10
    return model


def clips(config, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 3, config.num_frames, config.img_size, config.img_size, generator=torch.manual_seed(seed))


def old_names(state):
    """As transformers up to version 4 wrote them, and as the files on the Hub are."""
    return {n.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): t for n, t in state.items()}


@pytest.mark.parametrize("rename", [dict, old_names])
def test_fine_tuned(rename):
    theirs = reference("VideoMAEForVideoClassification", True, **SMALL, num_labels=5)
    ours = svfap.import_published(rename(theirs.state_dict()), **WORDS)
    assert (ours.config.task, ours.config.num_outputs, ours.config.stage_depths) == ("classification", 5, (3,))
    clip = clips(ours.config)
    with torch.no_grad():
        expected = theirs(clip.transpose(1, 2)).logits
        assert_close(ours(clip), expected, **CLOSE)
        assert expected.abs().max() > 0.1  # there is something to compare


def test_pretrained_predictions_and_loss():
    theirs = reference("VideoMAEForPreTraining", False, **SMALL)
    ours = svfap.import_published(old_names(theirs.state_dict()), decoder_num_heads=3, **WORDS)
    assert (ours.config.task, ours.config.decoder_depth, ours.config.decoder_embed_dim) == ("pretraining", 2, 24)
    clip, mask = clips(ours.config), svfap.tube_mask(2, ours.config)
    with torch.no_grad():
        expected = theirs(clip.transpose(1, 2), bool_masked_pos=mask.to_bool())
        assert_close(ours(clip, mask), expected.logits, **CLOSE)
        assert_close(ours.loss(clip, mask), expected.loss, **CLOSE)


def test_both_namings_are_the_same_model():
    """transformers' names -> ours -> the published names -> ours."""
    for kind, mean_pooling in (("VideoMAEForVideoClassification", True), ("VideoMAEForPreTraining", False)):
        state = reference(kind, mean_pooling, **SMALL, num_labels=5).state_dict()
        first = svfap.import_published(state, decoder_num_heads=3, **WORDS)
        published = export_published(first)
        stem = "encoder." if mean_pooling is False else ""
        assert {
            f"{stem}patch_embed.proj.weight",
            f"{stem}blocks.0.attn.qkv.weight",
            f"{stem}blocks.2.attn.q_bias",
        } <= set(published)
        again = svfap.import_published(published, decoder_num_heads=3, **WORDS)
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in first.state_dict().items())


def test_the_bare_encoder_becomes_features():
    theirs = reference("VideoMAEModel", False, **SMALL)
    ours = svfap.import_published(theirs.state_dict(), fuse_stages=True, **WORDS)
    assert ours.config.task == "features"
    clip = clips(ours.config)
    with torch.no_grad():
        assert_close(ours.encoder(clip), theirs(clip.transpose(1, 2)).last_hidden_state, **CLOSE)


def test_the_folder_of_transformers_tells_sizes_and_labels(tmp_path, capsys, caplog):
    labels = dict(enumerate("abcde"))
    theirs = reference("VideoMAEForVideoClassification", True, **SMALL, id2label=labels)
    theirs.save_pretrained(tmp_path / "hub")
    assert main(["convert", str(tmp_path / "hub" / "model.safetensors"), str(tmp_path / "out")]) == 0
    assert "does not store sampling_stride (taken: 4);" in caplog.text
    words = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (words["num_heads"], words["img_size"], words["num_frames"]) == (4, 32, 8)
    assert words["label_names"] == list("abcde")
    assert "transformers naming" in capsys.readouterr().out
    model = svfap.load_model(tmp_path / "out")
    clip = clips(model.config)
    with torch.no_grad():
        assert_close(model(clip), theirs(clip.transpose(1, 2)).logits, **CLOSE)


def test_a_file_with_a_part_missing_is_named():
    state = reference("VideoMAEForPreTraining", False, **SMALL).state_dict()
    del state["videomae.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(UserError, match="parameters left empty: encoder.stages.0.blocks.1.attn.qkv.weight"):
        svfap.import_published(state, decoder_num_heads=3, **WORDS)


@pytest.mark.parametrize("naming", ["transformers", "published"])
def test_fine_tuning_starts_from_it(tmp_path, naming):
    """What `svfap finetune --preset videomae_base --init videomae.pth` does, at a small size and other frames."""
    theirs = reference("VideoMAEForPreTraining", False, **SMALL)
    state = theirs.state_dict()
    if naming == "published":
        state = export_published(svfap.import_published(state, decoder_num_heads=3, **WORDS))
    torch.save({"model": state}, tmp_path / "videomae.pth")
    sizes = dict(embed_dim=48, num_heads=4, stage_depths=(3,), patch_size=8, img_size=64, num_frames=16)
    model = svfap.create_model("videomae_base", "classification", num_outputs=7, **sizes)
    new = init_encoder(model, read_initial(str(tmp_path / "videomae.pth"), model))
    assert new == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    theirs_fc2 = theirs.videomae.encoder.layer[2].output.dense.weight
    assert torch.equal(model.encoder.stages[0].blocks[2].mlp.fc2.weight, theirs_fc2)


@pytest.mark.parametrize("img_size", [160, 224])
def test_the_preset_has_the_published_shapes(img_size):
    """The base size, without weights: every tensor of transformers' model finds its place in ours."""
    with torch.device("meta"):
        config = transformers.VideoMAEConfig(image_size=32, use_mean_pooling=False)  # no tensor depends on it
        theirs = from_transformers(transformers.VideoMAEForPreTraining(config).state_dict())
        ours = svfap.create_model("videomae_base", "pretraining", img_size=img_size)
    shapes = {name: tensor.shape for name, tensor in theirs.items()}
    assert shapes == {name: tensor.shape for name, tensor in export_published(ours).items()}
    assert (ours.config.num_heads, ours.config.num_tokens) == (12, 8 * (img_size // 16) ** 2)
    assert ours.config.decoder_num_heads == config.decoder_num_attention_heads
