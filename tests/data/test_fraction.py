"""Parts of the training videos: stratified, nested, and in pre-training at the cost of all of them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import svfap
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.manifest_rows import ManifestError
from svfap.data.split import take_fraction
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.pretrain import PretrainTask, pretrain

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0, epochs=2)


def keys(manifest: Manifest) -> list[str]:
    return [sample.key for sample in manifest]


@pytest.fixture
def imbalanced(tmp_path: Path) -> Manifest:
    """100 samples of class 0, 30 of class 1, 3 of class 2, in mixed order."""
    labels = np.random.default_rng(0).permutation([0] * 100 + [1] * 30 + [2] * 3)
    pd.DataFrame({"path": [f"{i}.mp4" for i in range(133)], "label": labels}).to_csv(tmp_path / "m.csv", index=False)
    return read_manifest(tmp_path / "m.csv")


def test_every_class_keeps_its_share_and_one_sample_at_least(imbalanced):
    for fraction, counts in ((0.1, [10, 3, 1]), (0.5, [50, 15, 2]), (0.001, [1, 1, 1]), (1.0, [100, 30, 3])):
        part = take_fraction(imbalanced, fraction, seed=0)
        assert np.bincount(part.labels).tolist() == counts
        numbers = [int(key.removesuffix(".mp4")) for key in keys(part)]
        assert numbers == sorted(numbers)
    assert keys(take_fraction(imbalanced, 1.0, seed=5)) == keys(imbalanced)


def test_larger_parts_hold_smaller_ones_and_the_seed_draws(imbalanced):
    parts = [set(keys(take_fraction(imbalanced, f / 20, seed=3))) for f in range(1, 21)]
    assert all(small <= large for small, large in pairwise(parts))
    again, other = (set(keys(take_fraction(imbalanced, 0.5, seed=s))) for s in (3, 4))
    assert again == parts[9]
    assert other != parts[9]


def test_without_classes_the_part_is_of_all(tmp_path):
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(200)))
    manifest = read_manifest(tmp_path / "m.csv", task="unlabelled")
    small, large = (keys(take_fraction(manifest, fraction, seed=0)) for fraction in (0.01, 0.05))
    assert len(small) == 2
    assert len(large) == 10
    assert set(small) < set(large)
    with pytest.raises(ManifestError, match="fraction 0 must be above 0"):
        take_fraction(manifest, 0, seed=0)


def test_pretraining_on_a_part_costs_what_all_videos_cost(faces, tmp_path):
    kwargs = {**QUICK, "manifest": faces / "pretrain.csv", "batch_size": 4}
    task = PretrainTask(PretrainConfig(**kwargs, out=tmp_path, fraction=0.25))
    assert task.num_videos == len(task.manifest) == 4
    assert len(task.dataset) == 16
    assert set(keys(task.dataset.manifest)) == set(keys(task.manifest))
    assert np.unique(keys(task.dataset.manifest), return_counts=True)[1].tolist() == [4, 4, 4, 4]
    first, again = task.dataset[0], task.dataset[4]  # the same video in the next pass
    assert first.sample.key == again.sample.key
    assert not np.array_equal(first.clips[0], again.clips[0])
    pretrain(PretrainConfig(**kwargs, out=tmp_path / "run", fraction=0.25))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 9))  # 16 / 4 clips, two epochs
    provenance = svfap.load_model(tmp_path / "run").config.provenance
    assert (provenance["num_videos"], provenance["fraction"], provenance["seed"]) == (4, 0.25, 0)


def test_finetuning_on_a_part_takes_fewer_steps_and_leaves_validation_whole(faces, tmp_path):
    kwargs = {**QUICK, "manifest": faces / "train.csv", "batch_size": 7, "val_fraction": 0.25}
    whole, part = (FinetuneTask(FinetuneConfig(**kwargs, out=tmp_path, fraction=f)) for f in (1.0, 0.5))
    assert keys(part.validation) == keys(whole.validation)
    assert set(keys(part.manifest)) < set(keys(whole.manifest))
    assert set(part.manifest.labels) == set(whole.manifest.labels)
    assert not set(keys(part.manifest)) & set(keys(part.validation))
    kwargs |= {"val_manifest": faces / "val.csv", "out": tmp_path / "run", "fraction": 0.5}
    finetune(FinetuneConfig(**kwargs))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line["num_evaluated"] for line in lines if line["kind"] == "val"] == [7, 7]
