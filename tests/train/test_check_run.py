"""Mistakes that are found before a run starts, and before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.resolve import check_run, resolve
from svfap.train.run_data import Part, RunData
from svfap.train.run_folder import RunFolder

RUN_ALL = """
import json, sys
from svfap.cli.main import main
statuses = [main(argv) for argv in json.loads(sys.argv[1])]
print(json.dumps([statuses, sorted({"torch", "pandas", "cv2", "scipy"} & set(sys.modules))]))
"""


@pytest.fixture
def manifest(tmp_path) -> Path:
    (tmp_path / "videos.csv").write_text("path,label\na.mp4,x\n")
    return tmp_path / "videos.csv"


def begun(config) -> None:
    """A run with these settings that has done a step."""
    folder = RunFolder(resolve(config))
    folder.open(RunData(("x",), Part(1)))
    folder.log({"kind": "train", "step": 1})


def test_the_command_finds_mistakes_without_torch(manifest, tmp_path):
    begun(PretrainConfig(manifest=manifest, out=tmp_path / "begun"))
    there = ["--manifest", str(manifest)]
    out = ["--out", str(tmp_path / "run")]
    mistakes = {
        "unknown preset 'svfap_bass' (did you mean 'svfap_base'?)": [
            "pretrain",
            *there,
            *out,
            "--preset",
            "svfap_bass",
        ],
        "manifest=gone.csv: no such file": ["pretrain", "--manifest", "gone.csv", *out],
        "gone: holds no dataset.json": ["finetune", "--dataset", "gone", *out],
        "--fold=all: give --dataset": ["finetune", *there, *out, "--fold", "all"],
        "--init=nowhere: no such folder or checkpoint; pre-train first (`svfap pretrain`) or give other weights; --init null": [
            "finetune",
            *there,
            *out,
            "--init",
            "nowhere",
        ],
        "begun: holds a run already; --resume": ["pretrain", *there, "--out", str(tmp_path / "begun")],
        "batch_size: 256 then, 8 now": [
            "pretrain",
            *there,
            "--out",
            str(tmp_path / "begun"),
            "--resume",
            "--batch_size=8",
        ],
        "img_size=50 is not a multiple": ["pretrain", *there, *out, "--model", '{"img_size": 50}'],
    }
    command = [sys.executable, "-c", RUN_ALL, json.dumps(list(mistakes.values()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[1] * len(mistakes), []]
    for message, line in zip(mistakes, done.stderr.splitlines(), strict=True):
        assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_manifest": Path("gone.csv")}, "val_manifest=gone.csv: no such file"),
        ({"root": Path("gone")}, "root=gone: no such folder"),
        ({"init": "runs/owner/name"}, "init=runs/owner/name: no such folder or checkpoint; pre-train first"),
        ({"parallel": 2}, "parallel=2: is the number of folds at a time"),
        ({"ema_decay": 1.5}, "ema_decay=1.5: must be from 0 to less than 1"),
        ({"model": {"num_head": 4}}, "did you mean 'num_heads'"),
    ],
)
def test_settings_that_cannot_start(settings, message, manifest, tmp_path):
    with pytest.raises(UserError, match=message):
        check_run(FinetuneConfig(manifest=manifest, out=tmp_path / "run", **settings))


def test_initial_weights_that_the_hub_lacks(manifest, tmp_path, monkeypatch):
    def no_answer(url, timeout):
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)  # where no folder runs is
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_answer)
    message = r"^init=runs/voxceleb2: no such folder, and not available on the Hub \(no network\); .*--init null"
    with pytest.raises(UserError, match=message):
        check_run(FinetuneConfig(manifest=manifest, out=tmp_path / "run", init="runs/voxceleb2"))


def test_what_can_start_passes(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    check_run(PretrainConfig(manifest=manifest, out=tmp_path / "run"))
    check_run(FinetuneConfig(manifest=manifest, out=tmp_path / "run", init="owner/name", root=tmp_path))
    begun(FinetuneConfig(manifest=manifest, out=tmp_path / "run"))
    check_run(FinetuneConfig(manifest=manifest, out=tmp_path / "run", num_workers=3, resume=True))
    assert "resume" not in (tmp_path / "run" / "config.yaml").read_text()


def test_every_fold_is_checked(tmp_path):
    parts = {}
    for name in "12":
        parts[name] = tmp_path / f"part_{name}.csv"
        parts[name].write_text("path,label\na.mp4,x\n")
    folds = (Fold("1", parts["1"], parts["2"]), Fold("2", parts["2"], parts["1"]))
    described = dict(
        name="x", title="X", task="classification", root=Path("."), label_names=("x", "y"), sampling_stride=1
    )
    write_dataset_file(tmp_path, PreparedDataset(**described, folds=folds))
    config = FinetuneConfig(dataset=tmp_path, fold="all", out=tmp_path / "run", parallel=2)
    check_run(config)
    parts["2"].unlink()
    with pytest.raises(UserError, match=r"manifest=.*part_2\.csv: no such file"):
        check_run(config)
    begun(FinetuneConfig(dataset=tmp_path, fold="1", out=tmp_path / "run" / "fold_1"))
    with pytest.raises(UserError, match=r"holds folds already \(1\)"):
        check_run(config)
    write_dataset_file(tmp_path, PreparedDataset(**described, folds=(Fold("1", parts["1"]),)))
    with pytest.raises(UserError, match="fold 1 of X has no test part"):
        check_run(config)
