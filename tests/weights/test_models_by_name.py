"""Models by name: checkpoint files with the dataset that they are of, repositories on the Hub, and the catalogue."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from fake_faces import film, frames
from huggingface_hub.errors import EntryNotFoundError

import svfap
from svfap.catalogue import AUTHORS, CATALOGUE, NOT_STATED, entry_of_file, published
from svfap.cli.main import main
from svfap.datasets.dataset import NAMES, get_dataset
from svfap.errors import UserError
from svfap.settings import require_model
from svfap.shipped import find_model
from svfap.weights.published import save_published

DFEW = get_dataset("dfew").label_names
SIZES = dict(num_frames=8, img_size=32, patch_size=16, embed_dim=64, num_heads=1, stage_depths=(1, 1, 1))
SIZES |= dict(num_bottleneck_tokens=(2,), bottleneck_hidden_dim=8)


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A file as the authors release them: seven outputs without names."""
    file = tmp_path_factory.mktemp("released") / "fold_1.pth"
    model = svfap.create_model("svfap_debug", "classification", num_outputs=7, **SIZES)
    save_published(model, file)
    contents = torch.load(file, weights_only=False)
    del contents["args"].svfap
    contents["args"].num_heads = 1
    torch.save(contents, file)
    return file


@pytest.fixture(scope="module")
def by_the_authors(released) -> Path:
    file = released.parent / AUTHORS / "dfew-1.pth"
    file.parent.mkdir()
    shutil.copy(released, file)
    return file


def test_a_file_is_named_with_its_dataset(released, by_the_authors, capsys):
    assert svfap.load_model(released).config.label_names == ()
    for name in (f"{released}:dfew", by_the_authors, str(by_the_authors)):
        config = svfap.load_model(name).config
        assert config.label_names == DFEW and config.sampling_stride == 4
        assert config.provenance["dataset"] == "DFEW" and "signed agreement" in config.provenance["licence"]
        assert svfap.load_model(name, task="features").config.task == "features"
    assert "labels and input of dfew, as the catalogue says of a file of this name" in said(capsys)
    assert find_model(f"{released}:dfew") == (released, "dfew")
    assert find_model("nowhere.pth:dfew") is None


def test_a_wrong_dataset_is_refused(released):
    with pytest.raises(UserError, match="its head has 7 outputs, not 11"):
        svfap.load_model(f"{released}:mafw")
    with pytest.raises(UserError, match="dataset=dfw: neither a folder .* nor one of dfew"):
        svfap.load_model(f"{released}:dfw")


@pytest.fixture
def video(tmp_path) -> str:
    film(tmp_path / "a.mp4", frames([[(20, 20)] for _ in range(20)]))
    return str(tmp_path / "a.mp4")


@pytest.mark.slow
def test_verbs_take_it(released, by_the_authors, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", video, "--model", str(released), "--faces", "none", "--out", "a.csv"]) == 1
    message = said(capsys)
    assert "does not say what its 7 outputs mean; add the dataset" in message and "dfew, ferv39k" in message
    assert main(["predict", video, "--model", f"{released}:dfew", "--faces", "none", "--out", "a.csv"]) == 0
    columns = [name for name in pd.read_csv("a.csv") if name.startswith("prob_")]
    assert columns == [f"prob_{name}" for name in DFEW]
    assert main(["predict", video, "--model", str(by_the_authors), "--faces", "none", "--out", "b.csv"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv("a.csv")[columns], pd.read_csv("b.csv")[columns])
    assert main(["extract", video, "--model", f"{released}:dfew", "--faces", "none", "--out", "c.parquet"]) == 0
    assert main(["info", f"{released}:dfew"]) == 0
    assert main(["convert", f"{released}:dfew", "converted"]) == 0
    assert svfap.load_model("converted").config.label_names == DFEW
    manifest = tmp_path / "test.csv"
    manifest.write_text("".join(["path,label\n", *(f"{video},{name}\n" for name in DFEW[:1])]))
    capsys.readouterr()
    assert main(["evaluate", "--model", str(released), "--manifest", str(manifest)]) == 1
    assert "add the dataset" in said(capsys)
    assert main(["evaluate", "--model", f"{released}:dfew", "--manifest", str(manifest)]) == 0
    assert (released.parent / "fold_1.evaluation" / "metrics.json").is_file()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories of the Hub are folders: hub/OWNER/NAME."""
    import huggingface_hub

    root = tmp_path / "hub"

    def download(repository: str, name: str) -> str:
        file = root / repository / name
        if not file.is_file():
            raise EntryNotFoundError(f"404: no {name}")
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", download)
    return root


def test_names_of_the_hub(hub, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("happy", "sad")
    svfap.create_model("svfap_debug", "classification", label_names=names).save_pretrained(hub / "lab" / "faces")
    for name in ("hf://lab/faces", "lab/faces"):
        assert svfap.load_model(name).config.label_names == names
        assert svfap.load_model(name, task="features").config.task == "features"
    for verb in (["predict", video, "--out", "a.csv"], ["extract", video, "--out", "b.parquet"]):
        assert main([*verb, "--model", "hf://lab/faces", "--faces", "none"]) == 0
    assert main(["info", "hf://lab/faces"]) == 0
    assert main(["convert", "hf://lab/faces", "here"]) == 0
    assert svfap.load_model("here").config.label_names == names


def test_videomae_of_the_hub(hub):
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=32, num_frames=4, hidden_size=64, num_attention_heads=1, num_hidden_layers=1)
    sizes |= dict(decoder_hidden_size=32, decoder_num_attention_heads=1, decoder_num_hidden_layers=1)
    sizes |= dict(intermediate_size=256, decoder_intermediate_size=128, use_mean_pooling=False)
    theirs = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**sizes))
    folder = hub / "lab" / "videomae"
    theirs.save_pretrained(folder)
    assert svfap.load_model("hf://lab/videomae").config.task == "pretraining"
    assert svfap.load_model("hf://lab/videomae", task="features").config.img_size == 32
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert svfap.load_model("hf://lab/videomae").config.stage_depths == (1,)


def test_the_catalogue_is_sound():
    assert len({entry.name for entry in CATALOGUE}) == len({entry.address for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry.dataset in (None, *NAMES) and entry.address.startswith("https://")
        assert entry.licence == NOT_STATED, "none is claimed: the authors' repository has no licence"
        assert published(entry.name) is entry
    assert {entry.fold for entry in CATALOGUE if entry.dataset == "dfew"} == set("12345")
    assert entry_of_file(Path("authors/mafw-3.pth")) is published("authors/mafw-3")
    assert entry_of_file(Path("other/mafw-3.pth")) is None


def test_the_card_of_a_published_model(capsys):
    for entry in CATALOGUE:
        assert main(["models", entry.name]) == 0
        card = capsys.readouterr().out
        assert entry.address in card and entry.page in card and "not stated: neither claimed nor granted here" in card
    assert main(["info", "authors/dfew-1.pth"]) == 1
    assert "`svfap models authors/dfew-1` says where to get it" in said(capsys)


def test_a_typing_error_in_the_name_of_an_authors_file_does_not_ask_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UserError, match="checkpoint; did you mean authors/dfew-., which `svfap models` lists"):
        require_model("authors/dfew-9")


def test_the_card_of_a_run_has_its_recipe_and_scores(tmp_path, capsys):
    names, folder = ("happy", "sad"), tmp_path / "own" / "run"
    svfap.create_model("svfap_debug", "classification", label_names=names).save_pretrained(folder / "best")
    (folder / "config.yaml").write_text("preset: svfap_debug\nepochs: 7\n")
    assert main(["models", str(folder)]) == 0
    before = capsys.readouterr().out
    assert "No evaluation is beside the model" in before and "- epochs: 7" in before and "license:" not in before
    intervals = {"scores": {"uar": [0.5, 0.75]}, "num_units": 20, "unit": "person"}
    known = {"manifest": "test.csv", "num_expected": 9, "num_evaluated": 8, "uar": 0.625, "intervals": intervals}
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(known))
    assert main(["models", str(folder)]) == 0
    after = capsys.readouterr().out
    assert "| UAR, % | 62.50 | [50.00, 75.00] |" in after and "test.csv; 8 of 9 videos" in after
    assert "bootstrap samples of the 20 person" in after


def test_models_of_a_folder_of_ones_own_are_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    svfap.create_model("svfap_debug", "features").save_pretrained(Path("models", "mine", "best"))
    assert main(["models", "--folder", "models"]) == 0
    listed = capsys.readouterr().out
    assert listed.count(str(Path("models", "mine"))) == 1
    assert main(["models"]) == 0
    assert str(tmp_path) not in capsys.readouterr().out
    assert main(["models", "--folder", str(tmp_path / "none")]) == 1
