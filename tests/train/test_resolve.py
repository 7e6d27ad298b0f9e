"""What a prepared dataset gives a training, what the settings say themselves, and mistakes between the two."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.resolve import resolve

FOLDS = (Fold("1", Path("a.csv"), Path("b.csv"), Path("v.csv")), Fold("2", Path("b.csv"), Path("a.csv")))


def dataset(folder: Path, **words) -> Path:
    """Two folds, the first with a validation part, of videos in /videos."""
    folder.mkdir(exist_ok=True)
    known = dict(name="x", title="X", task="classification", root=Path("/videos"), label_names=("b", "a"), folds=FOLDS)
    write_dataset_file(folder, PreparedDataset(**{**known, "sampling_stride": 2, **words}))
    return folder


def finetuning(folder: Path, **words) -> FinetuneConfig:
    return FinetuneConfig(**{"out": folder / "run", "dataset": folder, "fold": "1", **words})


def test_a_dataset_gives_what_is_left_open(tmp_path):
    config = resolve(finetuning(dataset(tmp_path)))
    assert (config.manifest, config.val_manifest) == (tmp_path / "a.csv", tmp_path / "v.csv")
    assert (config.root, config.sampling_stride, config.task) == (Path("/videos"), 2, "classification")
    assert (config.label_names, config.output_activation, config.mixup) == (["b", "a"], "none", 0.8)
    assert resolve(config) == config  # as a resumed run reads it
    second = resolve(finetuning(tmp_path, fold="2"))
    assert (second.manifest, second.val_manifest, second.val_fraction) == (tmp_path / "b.csv", None, 0.0)
    assert resolve(second) == second


def test_dimensions_activation_and_range_of_a_regression(tmp_path):
    words = dict(task="regression", output_activation="sigmoid", label_range=(1.0, 5.0), frame_level=True)
    config = resolve(finetuning(dataset(tmp_path, **words)))
    assert (config.dimensions, config.label_names) == (["b", "a"], None)
    assert (config.output_activation, config.label_range, config.frame_level) == ("sigmoid", (1.0, 5.0), True)
    assert (config.mixup, config.cutmix) == (0.0, 0.0)
    assert resolve(config) == config


def test_what_the_settings_say_wins(tmp_path):
    words = dict(root=Path("/elsewhere"), sampling_stride=7, label_names=["a", "b"], val_manifest=Path("mine.csv"))
    config = resolve(finetuning(dataset(tmp_path), **words, val_fraction=0.0))
    assert (config.root, config.sampling_stride, config.label_names) == (Path("/elsewhere"), 7, ["a", "b"])
    assert config.val_manifest == Path("mine.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dataset": None, "fold": None}, "give either `manifest` .* or `dataset`"),
        ({"dataset": None, "manifest": "m.csv"}, "fold=1: folds come with a dataset"),
        ({"manifest": Path("m.csv")}, "manifest=m.csv: dataset=.* gives the videos"),
        ({"fold": None}, "X has folds 1, 2; say which, or all"),
        ({"fold": "3"}, "no fold '3'; its folds: 1, 2"),
        ({"task": "regression"}, "task=regression: X is for classification"),
        ({"loss": "ccc"}, "loss=ccc: is for regression"),
        ({"val_fraction": 0.0}, r"val_fraction=0: .* has a validation part \(v.csv\).*--validation none"),
    ],
)
def test_mistakes(words, message, tmp_path):
    dataset(tmp_path)
    with pytest.raises(UserError, match=message):
        resolve(finetuning(tmp_path, **words))


def test_unlabelled_videos_are_for_pretraining_alone(tmp_path):
    labelled = dataset(tmp_path / "labelled")
    unlabelled = dataset(tmp_path / "more", task="unlabelled", label_names=(), folds=(), pretrain=Path("p.csv"))
    config = resolve(PretrainConfig(out=tmp_path / "run", dataset=unlabelled))
    assert (config.manifest, config.root, config.sampling_stride) == (unlabelled / "p.csv", Path("/videos"), 2)
    assert resolve(config) == config
    with pytest.raises(UserError, match="X has no labels; it is for pre-training"):
        resolve(finetuning(unlabelled))
    with pytest.raises(UserError, match="has no videos for pre-training; give `manifest` instead"):
        resolve(PretrainConfig(out=tmp_path / "run", dataset=labelled))


def test_several_datasets_give_what_they_say_alike(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    dataset(first)
    dataset(second, label_names=("a", "b"), folds=FOLDS[1:])
    config = finetuning(first, dataset=[f"{first}:2", f"{second}:1"])
    found = resolve(config)
    assert found.manifest == [f"{first}/a.csv:2", f"{second}/b.csv:1"] and found.val_manifest == first / "v.csv"
    assert (found.root, found.fold, found.label_names, found.val_fraction) == (None, "1", ["b", "a"], 0.1)
    assert resolve(found) == found  # as a resumed run reads it
    assert resolve(finetuning(first, dataset=[f"{second}:2", f"{first}:1"], fold="2")).val_fraction == 0.0
    with pytest.raises(UserError, match="fold: X has folds 1, 2; say which"):
        resolve(finetuning(first, dataset=config.dataset, fold=None))
    with pytest.raises(UserError, match=r"manifest=m.csv: dataset=.*first:2, .*second:1 gives the videos"):
        resolve(finetuning(first, dataset=config.dataset, manifest="m.csv"))
    regression = dict(task="regression", label_range=(1.0, 5.0))
    for words, others, message in (
        (
            {},
            {"sampling_stride": 4},
            "sampling_stride: the datasets differ, 2 in .*first, 4 in .*second; give `sampling_stride`",
        ),
        (
            {},
            {"label_names": ("a", "c")},
            r"label_names: the datasets differ, \['b', 'a'\] in .*; write the classes alike",
        ),
        (
            {},
            regression,
            "task: the datasets differ, classification in .*first, regression in .*; one run learns one task",
        ),
        (
            regression,
            {**regression, "label_range": (0.0, 1.0)},
            "label_range: the datasets differ, .* to one scale first",
        ),
        (regression, {**regression, "label_names": ("a",)}, "dimensions: the datasets differ, .* with `dimensions`"),
    ):
        dataset(first, **words)
        dataset(second, **{"folds": FOLDS[1:], **others})
        with pytest.raises(UserError, match=message):
            resolve(config)
    assert resolve(finetuning(first, dataset=config.dataset, dimensions=["a"])).dimensions == ["a"]
