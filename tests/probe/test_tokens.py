"""Frozen features: what they are, and that they are computed once."""

from __future__ import annotations

import os
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from svfap.data.augment import normalize
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.model.build import create_model
from svfap.model.presets import model_config
from svfap.probe.tokens import (
    FeatureCache,
    data_digest,
    encode,
    encoder_digest,
    read_pixels,
    read_tokens,
    untrained_encoder,
)


@pytest.fixture
def clips():
    return torch.randint(0, 256, (5, 16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(1)
    return create_model("svfap_debug", "pretraining")


def test_the_sets_are_what_fine_tuning_and_the_decoder_read(clips, pretrained):
    tokens = read_tokens(pretrained, clips, sets=("last", "fused", "tokens", "stages"), precision="fp32", batch_size=2)
    pixels = normalize(clips, pretrained.config.pixel_mean, pretrained.config.pixel_std)
    with torch.no_grad():
        fused = pretrained.encoder(pixels)  # its norm has no scale and shift yet
        perceiver = create_model("svfap_debug", "features").eval()
        perceiver.encoder.load_state_dict(pretrained.encoder.state_dict())
        last, steps = perceiver.features(pixels), perceiver.step_features(pixels)
    close = partial(np.testing.assert_allclose, atol=2e-5)
    close(tokens.of_clips("last"), last)
    close(tokens.of_steps("last"), steps)
    close(tokens.of_clips("fused"), fused.mean(dim=1))
    close(tokens.of_clips("tokens", flat=False), fused, atol=2e-3)  # float16
    assert tokens.of_clips("tokens").shape == (5, fused[0].numel())
    assert tokens.of_steps("tokens").shape == (5, 8, fused[0].numel() // 8)
    assert tokens.of_steps("tokens", flat=False).shape == (5, 8, 16, 32)
    close(tokens.of_clips("stage_3"), tokens.of_clips("last"))
    assert {name: array.shape[1] for name, array in tokens.sets.items()} == {
        "last": 2, "fused": 8, "tokens": 8, "stage_1": 8, "stage_2": 4, "stage_3": 2,
    }  # fmt: skip
    assert tokens.rows.tolist() == [0, 1, 2, 3, 4]


def test_pixels_are_grey_and_averaged_over_areas():
    clips = torch.zeros(1, 16, 24, 24, 3, dtype=torch.uint8)
    clips[0, 3, :2, :2] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    clips[0, 3, 2, 0] = torch.tensor([0, 255, 0], dtype=torch.uint8)
    pixels = read_pixels(clips, 8)["pixels"]
    assert pixels.shape == (1, 8, 2 * 144)
    values = pixels[0, 1].reshape(2, 12, 12)[1]
    assert values[0, 0] == pytest.approx(0.299) and values[1, 0] == pytest.approx(0.587 / 4)
    assert pixels.count_nonzero() == 2


def test_the_untrained_encoder_is_that_which_pre_training_starts_from():
    torch.manual_seed(0)
    first = create_model("svfap_debug", "pretraining").encoder
    config = create_model("svfap_debug", "classification", num_outputs=3, label_names=("a", "b", "c")).config
    before = torch.get_rng_state()
    encoder = untrained_encoder(config)
    assert torch.equal(before, torch.get_rng_state())
    assert encoder_digest(encoder) == encoder_digest(first) != encoder_digest(untrained_encoder(config, seed=1))


def test_the_digest_of_an_encoder_tells_settings_that_its_weights_do_not_show():
    settings = [
        {}, {"num_heads": 4}, {"standardize_clips": True}, {"stem": "conv"},
        {"pixel_mean": (0.1, 0.2, 0.3)}, {"pixel_std": (0.3, 0.2, 0.1)},
        {"temporal_downsample": "avg"}, {"temporal_downsample": "max"}, {"temporal_pyramid": False},
    ]  # fmt: skip
    encoders = [untrained_encoder(model_config("svfap_debug", "features", **each)) for each in settings]
    assert len({encoder_digest(encoder) for encoder in encoders}) == len(settings)


def test_clips_of_another_kind_are_refused(pretrained):
    with pytest.raises(UserError, match="uint8"):
        read_tokens(pretrained, torch.zeros(2, 3, 16, 32, 32))


@pytest.fixture
def dataset(faces, tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).symlink_to(faces)
    manifest = read_manifest(faces / "val.csv").subset([0, 1, 2])
    return ClipDataset(manifest, "test", 16, 1, 32, seed=0)


def test_a_cache_decodes_only_what_is_not_there(dataset, pretrained, tmp_path, monkeypatch):
    decoded = count()
    real = ClipDataset.__getitem__
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda self, i: (next(decoded), real(self, i))[1])
    cache = FeatureCache(tmp_path / "features", data_digest(dataset))
    encoders = {"one": pretrained.encoder.eval(), "two": untrained_encoder(pretrained.config)}

    def read(*sets):
        return cache.read(
            {name: lambda sets, e=encoder: partial(encode, e, sets=tuple(sets)) for name, encoder in encoders.items()},
            {name: encoder_digest(encoder) for name, encoder in encoders.items()},
            dict.fromkeys(encoders, sets),
            lambda: make_loader(dataset, 2, shuffle=False, seed=0),
            torch.device("cpu"), "fp32", "reading",
        )  # fmt: skip

    first = read("last", "tokens")
    assert next(decoded) == 3  # both encoders read what is decoded once
    again = read("last")
    assert next(decoded) == 4  # nothing more
    direct = read_tokens(pretrained, dataset, sets=("last", "tokens"), precision="fp32")
    for tokens in (first["one"], again["one"], direct):
        np.testing.assert_allclose(tokens.sets["tokens"], direct.sets["tokens"], atol=1e-3)
        assert tokens.rows.tolist() == direct.rows.tolist() and tokens.weights.tolist() == direct.weights.tolist()
    assert isinstance(again["one"].sets["tokens"], np.memmap)
    assert not np.allclose(again["two"].sets["last"], again["one"].sets["last"])
    before = next(decoded)
    assert set(read("fused")["one"].sets) == {"last", "tokens", "fused"}  # what was there stays
    assert next(decoded) > before + 2
    damaged = next((tmp_path / "features").glob("*/last.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-4])
    before = next(decoded)
    read("last")
    assert next(decoded) > before + 2


DAMAGES = {
    "deleted": lambda file: file.unlink(),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-4]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),  # as after a power failure
    "garbled": lambda file: file.write_bytes(bytes(255 - byte for byte in file.read_bytes())),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def test_a_damaged_cache_is_made_again(dataset, pretrained, tmp_path):
    """Whichever file of whichever encoder is damaged, and however."""
    cache = FeatureCache(tmp_path / "features", data_digest(dataset))
    batches = list(make_loader(dataset, 3, shuffle=False, seed=0))
    encoders = {"one": pretrained.encoder.eval(), "two": untrained_encoder(pretrained.config)}
    names = {"one": "of_one", "two": "of_two"}

    def read():
        return cache.read(
            {key: lambda sets, e=encoder: partial(encode, e, sets=tuple(sets)) for key, encoder in encoders.items()},
            names, dict.fromkeys(encoders, ("last", "fused")), lambda: batches, torch.device("cpu"), "fp32", "reading",
        )  # fmt: skip

    first = read()
    whole = {key: {name: np.array(x) for name, x in tokens.sets.items()} for key, tokens in first.items()}
    files = sorted(file.relative_to(tmp_path) for file in (tmp_path / "features").rglob("*") if file.is_file())
    assert [file.name for file in files] == ["features.json", "fused.bin", "last.bin", "views.npz"] * 2
    for file in files:
        for name, damage in DAMAGES.items():
            damage(tmp_path / file)
            for key, tokens in read().items():
                assert tokens.rows.tolist() == first[key].rows.tolist(), (file, name)
                for kind, expected in whole[key].items():
                    np.testing.assert_array_equal(tokens.sets[kind], expected, err_msg=f"{file} {name}")


def test_changed_videos_and_sampling_are_other_data(dataset, faces, tmp_path):
    from dataclasses import replace

    assert data_digest(dataset) == data_digest(replace(dataset, seed=1))
    others = [replace(dataset, stride=2), replace(dataset, num_segments=1), replace(dataset, fps=5.0)]
    others.append(replace(dataset, manifest=dataset.manifest.subset([0, 1])))
    assert len({data_digest(each) for each in (dataset, *others)}) == 5
    before = data_digest(dataset)
    path = dataset.manifest[0].path
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert data_digest(dataset) != before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_features_do_not_depend_on_the_batches(clips, pretrained):
    one, other = (
        read_tokens(pretrained, clips, sets=("last",), precision="fp32", batch_size=size).sets["last"]
        for size in (1, 5)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
