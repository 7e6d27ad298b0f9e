"""Files of all earlier format versions stay readable: the fixtures (see fixtures/write.py), and the table of changes."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import svfap
from svfap import UserError, formats
from svfap.cli.main import main
from svfap.data.prepared import read_dataset, write_dataset_file
from svfap.formats import Change, current_version, stamped, upgrade

FIXTURES = next(
    path for parent in Path(__file__).resolve().parents if (path := parent / "fixtures" / "write.py").is_file()
).parent
VERSIONS = sorted(path.name for path in FIXTURES.glob("v*"))
TASKS = ("classification", "regression", "pretraining")
CLOSE = dict(rtol=1e-4, atol=1e-5)  # summation order differs between CPUs and versions of torch


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path) -> Path:
    """A copy of the fixtures of one version, with `@HERE@` replaced by its path."""
    folder = tmp_path / request.param
    shutil.copytree(FIXTURES / request.param, folder)
    for file in (path for suffix in ("json", "yaml", "csv") for path in folder.rglob(f"*.{suffix}")):
        file.write_text(file.read_text().replace("@HERE@", str(folder)))
    return folder


def model_outputs(model, expected) -> dict[str, np.ndarray]:
    """Outputs of the model for the stored pixels."""
    with torch.no_grad():
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (model.config.pixel_mean, model.config.pixel_std))
        clip = (torch.from_numpy(expected["pixels"]).float() / 255 - mean) / std
        if "masked" in expected:
            mask = svfap.TubeMask.from_bool(torch.from_numpy(expected["masked"]), model.config)
            return {"outputs": model(clip, mask).numpy()}
        return {"outputs": model(clip).numpy(), "features": model.features(clip).numpy()}


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_model_gives_the_stored_outputs(old, task, tmp_path):
    expected = dict(np.load(old / f"model_{task}" / "expected.npz"))
    model = svfap.load_model(old / f"model_{task}")
    assert model.config.task == task
    assert model.config.sampling_stride == 2
    assert model.config.provenance == {"written_by": "tests/fixtures/write.py", "nested": {"epochs": 3, "init": None}}
    names = {"classification": ("happy", "sad", "neutral"), "regression": ("valence", "arousal"), "pretraining": ()}
    assert model.config.label_names == names[task]
    outputs = model_outputs(model, expected)
    assert outputs.keys() == expected.keys() - {"pixels", "masked"}
    for name, values in outputs.items():
        np.testing.assert_allclose(values, expected[name], **CLOSE, err_msg=name)
    model.save_pretrained(tmp_path / "again")
    assert version_of(tmp_path / "again" / "config.json") == current_version("model config")
    again = svfap.load_model(tmp_path / "again")
    assert again.config == model.config
    for name, values in model_outputs(again, expected).items():
        np.testing.assert_array_equal(values, outputs[name])


def version_of(file: Path) -> int:
    return json.loads(file.read_text())["format_version"]


def test_a_prepared_dataset_stays_readable(old, tmp_path):
    custom = read_dataset(old / "dataset_folder")
    assert (custom.name, custom.task, custom.label_names) == ("folder", "classification", ("happy", "sad"))
    assert custom.counts == {"train": 4, "val": 2, "test": 2}
    assert custom.root == old / "dataset_folder" / "release"
    corpus = read_dataset(old / "dataset_crema_d")
    assert [fold.name for fold in corpus.folds] == list("12345")
    assert corpus.label_names == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert corpus.metrics == ("uar", "war")
    assert corpus.notes["validation"] == "by subject: 0.1 of training, seed 0"
    for dataset in (custom, corpus):
        for fold in dataset.folds:
            for manifest in (fold.train, fold.val, fold.test):
                with manifest.open() as file:
                    rows = list(csv.DictReader(file))
                assert len(rows) == dataset.counts[manifest.stem] > 0
                assert all(
                    (dataset.root / row["path"]).is_file() and row["label"] in dataset.label_names for row in rows
                )
        write_dataset_file(tmp_path / dataset.name, dataset)
        assert version_of(tmp_path / dataset.name / "dataset.json") == current_version("dataset description")
        assert read_dataset(tmp_path / dataset.name) == dataset


def test_a_stopped_run_is_resumed(old):
    """From its config.yaml and training state, on its prepared dataset."""
    run = old / "run_finetune"
    before = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    model = svfap.load_model(run)
    assert main(["finetune", "--config", str(run / "config.yaml"), "--resume"]) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    counted_from_1 = [{**line, "epoch": line["epoch"] + 1 - before[0]["epoch"]} for line in before]
    assert log[: len(before)] == counted_from_1, "finished steps are not repeated"
    assert [line["epoch"] for line in log if line["kind"] == "val"] == [1, 2, 3]
    assert [line["step"] for line in log if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    rates = [line["lr"] for line in log if line["kind"] == "train"]
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[3] < rates[2], "the schedule continues"
    assert yaml.safe_load((run / "config.yaml").read_text())["format_version"] == current_version("training settings")
    assert json.loads((run / "metrics.json").read_text())["finished"]
    now = svfap.load_model(run / "last")
    assert model.config.frame_fit == "centre", "what version 1 did"
    assert (model.config.frame_rate, now.config.frame_rate) == (None, 25), "the contract is written from now on"
    kept = {"provenance": model.config.provenance, "frame_rate": None, "frame_fit": "centre"}
    assert replace(now.config, **kept) == model.config, "steps from now on are those of today"
    assert now.config.provenance == {
        **model.config.provenance,
        "finetuned_on": "dataset_folder/train.csv",  # which this version writes without the folders of a machine
        "dataset": "Own data",  # which this version adds, with the terms in dataset.json
        "licence": "your own: see that the people in the videos agreed to this use",
    }
    assert main(["report", str(run), "--out", str(old / "report.html")]) == 0


def test_a_stopped_run_is_not_resumed_with_other_settings(old, capsys):
    run = old / "run_finetune"
    assert main(["finetune", "--config", str(run / "config.yaml"), "--resume", "--epochs", "4"]) == 1
    assert "epochs: 3 then, 4 now" in capsys.readouterr().err


def edit(file: Path, change) -> None:
    """Rewrite a JSON or YAML file."""
    settings = yaml.safe_load(file.read_text())  # JSON is valid YAML
    change(settings)
    file.write_text(json.dumps(settings))


def later(monkeypatch, kind: str, *changes: Change) -> None:
    """Simulate a later version of the package with these additional format changes."""
    monkeypatch.setitem(formats.CHANGES, kind, [*formats.CHANGES[kind], *changes])


@pytest.fixture
def first(tmp_path) -> Path:
    """A model folder of version 1 that calls `num_frames` "clip_frames" and does not know `sampling_stride`."""
    folder = tmp_path / "first"
    shutil.copytree(FIXTURES / "v1" / "model_classification", folder)

    def downgrade(settings):
        settings["clip_frames"] = settings.pop("num_frames")
        del settings["sampling_stride"]

    edit(folder / "config.json", downgrade)
    return folder


@pytest.mark.parametrize("load", [svfap.load_model, svfap.Perceiver.from_pretrained, svfap.Model.from_pretrained])
def test_a_renamed_setting_of_an_old_model_is_upgraded(first, load, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"config.json: unknown settings clip_frames"):
        load(first)
    later(monkeypatch, "model config", Change({"clip_frames": "frames_per_clip"}))
    later(monkeypatch, "model config", Change({"frames_per_clip": "num_frames"}, added={"sampling_stride": 7}))
    model = load(first)
    assert model.config.num_frames == 8
    assert model.config.sampling_stride == 7, "the value given in the table of changes, not the current default"
    model.save_pretrained(tmp_path / "again")
    assert version_of(tmp_path / "again" / "config.json") == current_version("model config")
    assert load(tmp_path / "again").config == model.config


def test_a_renamed_setting_of_an_old_dataset_is_upgraded(tmp_path, monkeypatch):
    shutil.copytree(FIXTURES / "v1" / "dataset_crema_d", tmp_path / "old")

    def downgrade(settings):
        settings["classes"] = settings.pop("label_names")
        for fold in settings["folds"]:
            fold["training"] = fold.pop("train")

    edit(tmp_path / "old" / "dataset.json", downgrade)
    with pytest.raises(UserError, match=r"dataset.json: unknown settings classes"):
        read_dataset(tmp_path / "old")
    later(monkeypatch, "dataset description", Change({"classes": "label_names", "folds.training": "folds.train"}))
    dataset = read_dataset(tmp_path / "old")
    assert dataset.label_names[0] == "ANG"
    assert [fold.train.name for fold in dataset.folds] == [f"fold_{n}_train.csv" for n in "12345"]


def test_a_renamed_setting_of_an_old_run_is_upgraded(old, monkeypatch, capsys):
    def downgrade(settings):
        settings.pop("format_version", None)
        settings["learning_rate"] = settings.pop("base_lr")
        settings["model"]["width"] = settings["model"].pop("embed_dim")
        del settings["by_group"]

    config = old / "run_finetune" / "config.yaml"
    edit(config, downgrade)
    command = ["finetune", "--config", str(config), "--resume"]
    with pytest.raises(SystemExit):
        main(command)
    assert "learning_rate" in capsys.readouterr().err
    change = Change({"learning_rate": "base_lr", "model.width": "model.embed_dim"}, added={"by_group": None})
    monkeypatch.setitem(formats.CHANGES, "training settings", [change])
    assert main(command) == 0
    settings = yaml.safe_load(config.read_text())
    assert settings["format_version"] == 2
    assert settings["base_lr"] == 0.001 and "learning_rate" not in settings
    assert settings["model"]["embed_dim"] == 8


KINDS = {
    "model config": ("model_classification/config.json", lambda root: svfap.load_model(root / "model_classification")),
    "dataset description": ("dataset_folder/dataset.json", lambda root: read_dataset(root / "dataset_folder")),
    "training settings": ("run_finetune/config.yaml", lambda root: resume(root / "run_finetune")),
}


def resume(run: Path) -> None:
    """Resume a run through the Python function, which raises `UserError`."""
    from svfap.train.config import FinetuneConfig
    from svfap.train.finetune import finetune

    finetune(FinetuneConfig(out=run, dataset=run.parent / "dataset_folder", resume=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda settings, newest: settings.update(format_version=newest + 1),
            "format_version is {later}, .* upgrade svfap",
        ),
        (lambda settings, newest: settings.update(format_version="two"), "format_version='two' must be a whole number"),
        (lambda settings, newest: settings.update(format_version=0), "format_version=0 must be a whole number"),
        (lambda settings, newest: settings.update(colour="red", wind=3), "unknown settings colour, wind"),
    ],
)
def test_errors_name_the_file(old, kind, change, message):
    file, read = KINDS[kind]
    edit(old / file, lambda settings: change(settings, current_version(kind)))
    with pytest.raises(UserError, match=f"{file}: {message.format(later=current_version(kind) + 1)}"):
        read(old)


def test_command_names_a_file_of_a_later_version(old, capsys):
    config = old / "run_finetune" / "config.yaml"
    edit(config, lambda settings: settings.update(format_version=99))
    with pytest.raises(SystemExit):
        main(["finetune", "--config", str(config), "--resume"])
    assert f"{config}: format_version is 99" in capsys.readouterr().err
    assert main(["report", str(config.parent), "--out", str(old / "report.html")]) == 1
    assert f"{config}: format_version is 99" in capsys.readouterr().err


def test_changes_since_the_version_of_the_file_are_applied(monkeypatch):
    swap = [Change({"a": "b"}), Change({"b": "c"}, added={"a": 1})]  # the name `a` is reused with another meaning
    monkeypatch.setitem(formats.CHANGES, "model config", swap)
    assert upgrade("model config", {"a": 5}, "f") == {"c": 5, "a": 1}
    assert upgrade("model config", {"format_version": 2, "b": 5}, "f") == {"c": 5, "a": 1}
    assert upgrade("model config", {"format_version": 3, "a": 5, "b": 6}, "f") == {"a": 5, "b": 6}
    assert stamped("model config", {"a": 1}) == {"format_version": 3, "a": 1}
    with pytest.raises(UserError, match="f: gives both b and c, its name since; remove b"):
        upgrade("model config", {"format_version": 2, "b": 5, "c": 5}, "f")


def test_upgrade_does_not_modify_its_argument_or_the_table(monkeypatch):
    changes = [Change({"folds.train": "folds.training"}, added={"folds.weights": []})]
    monkeypatch.setitem(formats.CHANGES, "dataset description", changes)
    settings = {"format_version": 1, "folds": [{"train": 1}, {"train": 2}]}
    first, second = (upgrade("dataset description", settings, "f") for _ in range(2))
    assert settings == {"format_version": 1, "folds": [{"train": 1}, {"train": 2}]}
    assert first == {"folds": [{"training": 1, "weights": []}, {"training": 2, "weights": []}]}
    first["folds"][0]["weights"].append(0)
    assert second["folds"][0]["weights"] == [] and changes[0].added == {"folds.weights": []}


@pytest.mark.parametrize("settings", [[], "text", None])
def test_a_file_without_mapping_is_refused(settings):
    with pytest.raises(UserError, match="here.json: not a model config"):
        upgrade("model config", settings, "here.json")


def test_every_version_has_a_fixture():
    """Each change of a format needs a fixture written before the change."""
    for kind, (file, _) in KINDS.items():
        texts = [(FIXTURES / name / file).read_text().replace("@HERE@", "/") for name in VERSIONS]
        kept = {yaml.safe_load(text).get("format_version", 1) for text in texts}
        assert kept >= set(range(1, current_version(kind))), kind
        assert max(kept) <= current_version(kind), kind
