"""Probing while pre-training: it is logged, reads no test part, and changes nothing in the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_runs import log, pretraining
from stopped_runs import stopped_in_step

from svfap.console import console
from svfap.data.prepared import read_dataset, write_dataset_file
from svfap.errors import UserError
from svfap.probe import monitor as monitor_module
from svfap.probe.monitor import Monitor, training_parts
from svfap.probe.readers import linear_probe
from svfap.probe.tokens import read_pixels, untrained_encoder
from svfap.reports.config import ReportConfig
from svfap.reports.report import report
from svfap.train.config import PretrainConfig
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import pretrain
from svfap.view.figures.curves import probe_curves

NAMES = {
    f"{reader}_{features}_{key}"
    for reader in ("linear", "knn")
    for features in ("last", "fused")
    for key in ("uar", "war")
}


@pytest.fixture(scope="module")
def plain(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    pretrain(pretraining(faces, out))
    return out


@pytest.fixture(scope="module")
def probed(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed") / "run"
    pretrain(pretraining(faces, out, probe_every=2, probe_dataset=faces))
    return out


def test_probing_changes_nothing_in_the_training(plain, probed):
    assert log(plain) == log(probed)
    for part in ("best", "last"):
        assert (plain / part / "model.safetensors").read_bytes() == (probed / part / "model.safetensors").read_bytes()


def test_the_log_has_the_untrained_encoder_every_second_epoch_and_the_last(probed):
    records = log(probed, "probe")
    assert [(record["epoch"], record["step"]) for record in records] == [(0, 0), (2, 8), (3, 12)]
    baselines = {f"{name}_{key}" for name in ("linear_pixels", "chance_labels") for key in ("uar", "war")}
    for record, more in zip(records, (baselines | {"scored_videos", "scored_people"}, set(), set()), strict=True):
        assert set(record) - {"kind", "epoch", "step", "seconds"} == NAMES | more
        assert all(0 <= record[name] <= 1 for name in NAMES) and record["seconds"] > 0
    assert records[0]["chance_labels_uar"] == pytest.approx(1 / 7)
    assert (records[0]["scored_videos"], records[0]["scored_people"]) == (7, 1)


def test_the_first_probe_is_of_the_untrained_encoder(probed, faces):
    from svfap.weights.folder import load_model

    shape = load_model(probed).config
    scores = Monitor(faces, shape).measure(untrained_encoder(shape), torch.device("cpu"), "fp32")
    assert scores == {name: log(probed, "probe")[0][name] for name in NAMES}


def test_a_resumed_run_has_the_same_losses_and_probes(plain, probed, faces, tmp_path):
    config = pretraining(faces, tmp_path / "run", probe_every=2, probe_dataset=faces)
    with stopped_in_step(6):
        assert pretrain(config).step == 6
    assert pretrain(replace(config, resume=True)).finished
    assert log(tmp_path / "run") == log(plain)
    again, whole = log(tmp_path / "run", "probe"), log(probed, "probe")
    assert [{**record, "seconds": 0} for record in again] == [{**record, "seconds": 0} for record in whole]


def test_a_run_may_be_resumed_without_probing(faces, tmp_path):
    config = pretraining(faces, tmp_path / "run", epochs=2, probe_every=1, probe_dataset=faces)
    pretrain(config)
    assert pretrain(replace(config, probe_every=None, probe_dataset=None, resume=True)).finished
    assert [record["epoch"] for record in log(tmp_path / "run")] == [1] * 4 + [
        2
    ] * 4  # the probe of epoch 0 shifts none


def described(faces: Path, folder: Path, **changes) -> Path:
    dataset = read_dataset(faces)
    (fold,) = dataset.folds
    write_dataset_file(folder, replace(dataset, folds=(replace(fold, **changes),)))
    return folder


def test_the_test_part_is_not_read_and_people_are_kept_apart(faces, tmp_path):
    parts = training_parts(described(faces, tmp_path, test=tmp_path / "there_is_none.csv"))
    ((fit, scored),) = parts.splits
    assert (len(fit), len(scored)) == (28, 7) and not set(parts.people[fit]) & set(parts.people[scored])
    parts = training_parts(described(faces, tmp_path, val=None, test=None))
    ((fit, scored),) = parts.splits
    assert len(fit) == 21 and len(scored) == 7 and not set(parts.people[fit]) & set(parts.people[scored])


def test_videos_are_decoded_once_where_they_have_room(faces, plain, monkeypatch):
    from svfap.data.clip_dataset import ClipDataset
    from svfap.weights.folder import load_model

    model, decoded = load_model(plain), []
    real = ClipDataset.__getitem__
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda self, i: (decoded.append(i), real(self, i))[1])
    monitor = Monitor(faces, model.config)
    model.train()
    before = torch.get_rng_state()
    first = monitor.measure(model.encoder, torch.device("cpu"))
    assert monitor.measure(model.encoder, torch.device("cpu")) == first and len(decoded) == 35
    assert model.encoder.training and torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(monitor_module, "MEMORY_BYTES", 1000)
    monitor = Monitor(faces, model.config)
    assert (
        monitor.measure(model.encoder, torch.device("cpu"))
        == first
        == monitor.measure(model.encoder, torch.device("cpu"))
    )
    assert len(decoded) == 35 * 3


def test_the_pixels_are_those_of_the_middle_clips(faces, plain):
    from svfap.weights.folder import load_model

    shape = load_model(plain).config
    monitor = Monitor(faces, shape)
    scores = monitor.measure(untrained_encoder(shape), torch.device("cpu"), baselines=True)
    items = [monitor.clips[row] for row in range(35)]
    clips = monitor.clips.collate(items)["clips"]
    x, y = read_pixels(clips, shape.num_time_steps)["pixels"].reshape(35, -1).numpy(), monitor.parts.targets()
    ((fit, test),) = monitor.parts.splits
    found = linear_probe(x[fit], y[fit], monitor.parts.people[fit], x[test], num_classes=7)
    assert scores["linear_pixels_war"] == pytest.approx((found.argmax(axis=1) == y[test]).mean())


def test_a_class_that_is_only_in_the_part_that_is_scored(faces, plain, tmp_path, capsys):
    """The last one: of it nothing is known, and chance has a place for it."""
    from svfap.weights.folder import load_model

    table = pd.read_csv(faces / "train.csv")
    last = read_dataset(faces).label_names[-1]
    table[table["label"] != last].to_csv(tmp_path / "train.csv", index=False)
    (fold,) = read_dataset(faces).folds
    shape = load_model(plain).config
    dataset = replace(read_dataset(faces), root=faces, folds=(replace(fold, train=tmp_path / "train.csv"),))
    write_dataset_file(tmp_path, dataset)
    scores = Monitor(tmp_path, shape).measure(untrained_encoder(shape), torch.device("cpu"), "fp32", baselines=True)
    assert scores["chance_labels_uar"] == pytest.approx(1 / 7)
    assert "scored on 7 videos of 1 person; scores of fewer than 10 people scatter much" in capsys.readouterr().err


def test_only_the_main_process_probes_and_the_others_wait(faces, tmp_path, monkeypatch):
    config = pretraining(faces, tmp_path / "run", probe_every=1, probe_dataset=faces)
    from svfap.train.pretrain import PretrainTask

    task = PretrainTask(config)
    run, called = TrainingRun(task, task.config), []
    monkeypatch.setattr(task, "probe", lambda *args: called.append("probe") or {})
    monkeypatch.setattr(type(run.accelerator), "wait_for_everyone", lambda self: called.append("wait"))
    run._probe(1)
    monkeypatch.setattr(type(run.accelerator), "is_main_process", False)
    run._probe(2)
    run.loader.close()
    assert called == ["probe", "wait", "wait"]


def test_the_report_shows_the_curves(probed, tmp_path):
    report(probed, ReportConfig(out=tmp_path / "report.html", maps=False))
    page = (tmp_path / "report.html").read_text()
    assert "Probes of the frozen encoder over epochs" in page and "Scored on 7 videos of 1 person." in page
    figure = probe_curves([json.loads(line) for line in (probed / "log.jsonl").read_text().splitlines()])
    (axes,) = figure.axes
    assert len(axes.lines) == 6 and list(axes.lines[0].get_xdata()) == [0, 2, 3]
    (chance,) = (line for line in axes.lines if line.get_label() == "chance")
    assert list(chance.get_ydata()) == pytest.approx([100 / 7] * 2)


def test_settings_of_probing_that_do_not_go_together(faces, tmp_path):
    with pytest.raises(UserError, match="together"):
        PretrainConfig(out=tmp_path, probe_every=1)
    unlabelled = replace(read_dataset(faces), task="unlabelled")
    write_dataset_file(tmp_path, unlabelled)
    with pytest.raises(UserError, match="has no labels to probe on"):
        pretrain(pretraining(faces, tmp_path / "run", probe_every=1, probe_dataset=tmp_path))
    assert not console.quiet


def test_a_dataset_of_one_person_is_named_with_the_option(faces, tmp_path):
    dataset = read_dataset(faces)
    (fold,) = dataset.folds
    pd.read_csv(faces / "train.csv").assign(subject="one").to_csv(tmp_path / "train.csv", index=False)
    for val, least in ((faces / "val.csv", 2), (None, 3)):
        folds = (replace(fold, train=tmp_path / "train.csv", val=val),)
        write_dataset_file(tmp_path, replace(dataset, root=faces, folds=folds))
        with pytest.raises(
            UserError, match=f"probe_dataset={tmp_path}, column 'subject': .* at least {least} people .* of 1"
        ):
            training_parts(tmp_path)
