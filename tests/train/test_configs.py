"""Every recipe that comes with the package is read by the real parser, by its name, and says what the paper says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from svfap.cli.main import main
from svfap.cli.parser import config_of
from svfap.datasets.dataset import NAMES, get_dataset
from svfap.paper import REPORTED, RESULTS, TITLES
from svfap.shipped import RECIPES as CONFIGS
from svfap.shipped import find_recipe, list_recipes
from svfap.train.config import FinetuneConfig, PretrainConfig

RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
VERB_OF = {"pretrain": "pretrain", "synth": "synth", "voxceleb2": "pretrain"}


def read(kind: type, name: str):
    return config_of(kind, Namespace(**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())))


@pytest.mark.parametrize("name", list_recipes())
def test_the_command_reads_every_recipe_by_its_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where there is no checkout
    verb, file = VERB_OF.get(name.rpartition("/")[2], "finetune"), find_recipe(name)
    with pytest.raises(SystemExit) as end:
        main([verb, *(["out"] if verb == "synth" else []), "--config", name, "--print_config"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    settings = yaml.safe_load(printed.out)
    for name, value in yaml.safe_load(file.read_text()).items():
        assert settings[name] == value, name


def test_a_name_that_is_no_recipe_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for given, told in (("dfwe", "did you mean dfew?"), ("x", "those that come with SVFAP are avcaffe_arousal, ")):
        with pytest.raises(SystemExit):
            main(["finetune", "--config", given])
        assert f"--config {given}: neither a file nor a recipe; {told}" in capsys.readouterr().err
    Path("dfew").write_text("epochs: 3")
    assert find_recipe("dfew") == CONFIGS / "dfew.yaml" and find_recipe("./dfew") == Path("./dfew")


def test_there_is_a_recipe_for_every_result_of_the_paper():
    assert {*RESULTS, "voxceleb2"} <= set(RECIPES)


def test_datasets_are_named_as_in_their_descriptions():
    assert TITLES.keys() == RESULTS.keys() >= REPORTED.keys()
    for name, title in TITLES.items():
        described, _, target = name.partition("_") if name.startswith("avcaffe") else (name, "", "")
        assert title == get_dataset(described).title + (f" ({target})" if target else "")


@pytest.mark.parametrize("name", RESULTS)
def test_finetuning_has_the_papers_recipe(name):
    config = read(FinetuneConfig, name)
    dataset = get_dataset(re.sub("^avcaffe_.*", "avcaffe", name))
    has_faces = dataset.pictures == "faces" or name == "mafw"  # of the release; the faces of others are cut first
    assert (config.dataset, config.out) == (Path("prepared" if has_faces else "cropped", name), Path("runs", name))
    assert "# Input: " in (CONFIGS / f"{name}.yaml").read_text()
    assert config.init == "runs/voxceleb2"
    assert (config.epochs, config.warmup_epochs, config.batch_size, config.base_lr) == (100, 5, 96, 1e-3)
    assert (config.betas, config.weight_decay, config.layer_decay) == ((0.9, 0.999), 0.05, 0.75)
    assert (config.drop_path_rate, config.rand_augment, config.erase_rate) == (0.1, True, 0.25)
    assert config.sampling_stride == (1 if name == "ferv39k" else 4)
    if name in ("werewolf_xl", "chalearn"):
        assert (config.mixup, config.cutmix) == (0, 0)
    else:
        assert (config.mixup, config.cutmix, config.smoothing) == (0.8, 1.0, 0.1)


def test_pretraining_has_the_papers_recipe():
    config = read(PretrainConfig, "voxceleb2")
    assert (config.epochs, config.warmup_epochs, config.batch_size) == (100, 5, 256)
    assert (config.base_lr, config.min_lr, config.betas, config.weight_decay) == (3e-4, 1e-5, (0.9, 0.95), 0.05)
    assert (config.mask_ratio, config.sampling_stride, config.preset) == (0.9, 4, "svfap_base")


@pytest.mark.parametrize("name", RESULTS)
def test_a_recipe_says_what_chooses_its_model(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    carved = not get_dataset("avcaffe" if name.startswith("avcaffe") else name).has_validation
    assert ("--validation none" in text) == carved
    assert ("official validation part" in text) != carved


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_in_a_recipe_are_its_own(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    prepare = re.search(r"^#   svfap prepare (\w+) .*--out (\S+)$", text, re.MULTILINE)
    assert prepare and prepare[1] in NAMES
    crop = re.search(r"^#   svfap crop --dataset (\S+) --out (\S+) --num_workers 8$", text, re.MULTILINE)
    assert crop is None or crop[1] == prepare[2]
    assert (crop or prepare)[2] == yaml.safe_load(text)["dataset"]
    assert re.search(rf"svfap {VERB_OF.get(name, 'finetune')} --config {name}(?= |$)", text, re.MULTILINE)
