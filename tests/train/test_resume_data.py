"""A run is resumed with the rows that it began with, wherever they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from small_runs import finetuning, log, pretraining

from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.train.finetune import finetune
from svfap.train.loop import train
from svfap.train.pretrain import PretrainTask, pretrain
from svfap.train.run_data import part_of, run_data
from svfap.train.run_folder import RunFolder, TrainState


@pytest.fixture(scope="module")
def data(faces, tmp_path_factory) -> Path:
    """The synthetic faces and a finished run on them, `run`. Read-only."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(faces, folder / "faces")
    finetune(finetuning(folder / "faces", folder / "run"))
    return folder


@pytest.fixture
def copy(data, tmp_path) -> Path:
    folder = shutil.copytree(data, tmp_path / "copy")
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(folder)))
    return folder


def resume(folder: Path, **settings):
    return finetune(finetuning(folder / "faces", folder / "run", resume=True, **settings))


def edit(file: Path, change) -> None:
    change(table := pd.read_csv(file)).to_csv(file, index=False)
    assert len(table)


def swap(table: pd.DataFrame) -> pd.DataFrame:
    """Another label in row 3, which keeps counts and classes."""
    labels = table["label"].copy()
    labels.iloc[2] = next(label for label in labels if label != labels.iloc[2])
    return table.assign(label=labels)


CHANGES = {
    "fewer rows": ("train.csv", lambda t: t.iloc[:-4], "training videos: 28 then, 24 now"),
    "a class renamed": (
        "train.csv",
        lambda t: t.assign(label=t["label"].replace("happy", "zeal")),
        r"classes or dimensions: .*happy.* then, .*zeal now.*row \d+ of the training videos",
    ),
    "another label": (
        "train.csv",
        swap,
        "other data .row 3 of the training videos is another one or has another label.;",
    ),
    "another order": ("train.csv", lambda t: t.iloc[::-1], "row 1 of the training videos"),
    "other validation": ("val.csv", lambda t: t.iloc[1:], "validation videos: 7 then, 6 now; row 1 of the validation"),
    "another box": ("val.csv", lambda t: t.assign(box="0 0 16 16"), "row 1 of the validation videos"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_rows_are_refused(name, copy):
    file, change, message = CHANGES[name]
    names = sorted(pd.read_csv(copy / "faces" / "train.csv")["label"].unique())
    assert "happy" in names
    if name == "a class renamed":
        for part in ("train.csv", "val.csv"):
            edit(copy / "faces" / part, change)
    else:
        edit(copy / "faces" / file, change)
    before = (copy / "run" / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=message) as refused:
        resume(copy)
    assert f"--init {copy / 'run'}" in str(refused.value)
    assert (copy / "run" / "config.yaml").read_bytes() == before


def test_a_dataset_that_has_moved_is_the_same(copy):
    (copy / "faces").rename(copy / "moved")
    edit(copy / "moved" / "train.csv", lambda t: t.assign(path=[str(copy / "moved" / path) for path in t["path"]]))
    result = finetune(finetuning(copy / "moved", copy / "run", resume=True))
    assert result.finished
    assert str(copy / "moved") in yaml.safe_load((copy / "run" / "config.yaml").read_text())["manifest"]


def test_pretraining_with_other_data_offers_a_new_run_from_its_weights(faces, tmp_path):
    table = pd.read_csv(faces / "pretrain.csv").assign(path=lambda t: str(faces) + "/" + t["path"])
    table.to_csv(tmp_path / "all.csv", index=False)
    config = pretraining(faces, tmp_path / "run", manifest=tmp_path / "all.csv", epochs=1)
    pretrain(config)
    table.iloc[:-1].to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(UserError, match="training videos: 16 then, 15 now") as refused:
        pretrain(pretraining(faces, tmp_path / "run", manifest=tmp_path / "all.csv", epochs=1, resume=True))
    assert f"from its weights with --init {tmp_path / 'run'}" in str(refused.value)


def test_a_run_without_stored_rows_goes_on_with_a_note_unless_its_model_differs(copy, capsys):
    (copy / "run" / "data.json").unlink()
    resume(copy)
    assert "that they are the same is not checked" in capsys.readouterr().err
    assert (copy / "run" / "data.json").exists()
    for part in ("train.csv", "val.csv"):
        edit(copy / "faces" / part, lambda t: t[t["label"] != "happy"])
    (copy / "run" / "data.json").unlink()
    with pytest.raises(UserError, match="classes or dimensions: .*; training videos: 28 then, 24 now"):
        resume(copy)


def test_a_checkpoint_with_another_head_is_one_line(copy, monkeypatch):
    monkeypatch.setattr(RunFolder, "_check_data", lambda *_: None)
    for part in ("train.csv", "val.csv"):
        edit(copy / "faces" / part, lambda t: t[t["label"] != "happy"])
    with pytest.raises(
        UserError, match=r"last: this checkpoint does not fit the run \(size mismatch for .*head"
    ) as error:
        resume(copy)
    assert "\n" not in str(error.value)


def test_digests_do_not_depend_on_the_folder_and_depend_on_what_counts(tmp_path):
    (tmp_path / "values.csv").write_text("label\n0\n1\n")

    def digests(text: str, frame_level: bool = False) -> str:
        (tmp_path / "m.csv").write_text(text)
        return part_of(read_manifest(tmp_path / "m.csv"), frame_level).digests

    plain = digests("path,label\na/1.mp4,x\na/2.mp4,y\n")
    assert len(plain) == 2 * 12
    assert plain == digests("path,label\n/data/b/1.mp4,x\n/data/b/2.mp4,y\n")
    assert plain == digests("subject,path,label\np,1.mp4,x\nq,2.mp4,y\n")
    for other in (
        "path,label\na/1.mp4,x\na/3.mp4,y\n",
        "path,label\na/1.mp4,y\na/2.mp4,x\n",
        "path,label,start_s\na/1.mp4,x,1\na/2.mp4,y,\n",
        "path,label,group\na/1.mp4,x,g\na/2.mp4,y,\n",
    ):
        assert digests(other) != plain
    per_frame = "path,label,frame_values\n1.mp4,x,values.csv\n2.mp4,y,values.csv\n"
    first = digests(per_frame, frame_level=True)
    assert digests(per_frame) == plain, "files of values count for frame-level models only"
    (tmp_path / "values.csv").write_text("label\n1\n1\n")
    assert digests(per_frame, frame_level=True) != first
    accented = per_frame.replace("values.csv", "f\u00e4ces.csv")  # stored by macOS with two characters for one
    (tmp_path / "fa\u0308ces.csv").write_text("label\n1\n1\n")
    assert digests(accented, frame_level=True) == digests(per_frame, frame_level=True)


def test_differences_of_runs_with_and_without_validation(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n1.mp4,x\n2.mp4,y\n")
    manifest = read_manifest(tmp_path / "m.csv")
    assert run_data(manifest, None).differences(run_data(manifest, manifest)) == ["validation videos: 2 then, none now"]


def test_a_longer_training_is_refused_with_the_way_to_it(copy):
    with pytest.raises(
        UserError, match="epochs: 2 then, 5 now.*schedule of 2 epochs.* new run with --init .*run"
    ) as error:
        resume(copy, epochs=5)
    assert "\n" not in str(error.value)


def test_the_best_epoch_of_an_older_run_is_read_as_counted_from_one(copy):
    run = copy / "run"
    best = json.loads((run / "metrics.json").read_text())["best_epoch"]
    scores = [line["uar"] for line in log(run, "val")]
    assert best == 1 + int(np.argmax(scores))
    for file in (run / "metrics.json", run / "last" / "state.json"):  # as version 0.2 wrote them
        content = json.loads(file.read_text())
        assert content.pop("format_version") == 2
        file.write_text(json.dumps({**content, "best_epoch": best - 1}))
    assert RunFolder(finetuning(copy / "faces", run)).read_state().best_epoch == best
    assert resume(copy).metrics["best_epoch"] == best
    (run / "last" / "state.json").write_text(json.dumps({"step": 3}))
    assert RunFolder(finetuning(copy / "faces", run)).read_state() == TrainState(step=3)


def test_a_warm_up_longer_than_training_is_shortened(faces, tmp_path, capsys):
    config = pretraining(faces, tmp_path / "run", epochs=2, warmup_epochs=5)
    train(PretrainTask(config), config)
    assert "warmup_epochs=5 is more than epochs=2: warming up for 1" in capsys.readouterr().err
    rates = [line["lr"] for line in log(tmp_path / "run")]
    assert rates[:4] == pytest.approx([n / 3 * 0.2 * 4 / 256 for n in range(4)])
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] < rates[4]
