"""The paper's experiments: what each row changes, runs shared between tables, tables that say what the runs scored."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import svfap.experiments.probing as probing_module
import svfap.experiments.reconstructions as reconstructions_module
import svfap.experiments.runs as runs_module
from svfap.cli.main import main
from svfap.console import duration
from svfap.data.manifest import read_manifest
from svfap.errors import Interrupted, UserError
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import SYNTHETIC, experiment, experiment_runs, read_settings
from svfap.experiments.probing import ProbeRun, probe_encoder
from svfap.experiments.runs import BASELINE, Clock, ExperimentRuns, do_all, do_one
from svfap.experiments.studies import EXPERIMENTS, STUDIES, StudyRow
from svfap.probe.config import ProbeConfig
from svfap.probe.probe import probe_model
from svfap.shipped import find_recipe
from svfap.train.config import FinetuneConfig
from svfap.train.resolve import resolve
from svfap.train.task import TrainResult
from svfap.weights.folder import load_model

MODEL = {"num_frames": 8, "stage_depths": [1, 1, 1], "num_bottleneck_tokens": 8}
PRETRAIN = dict(epochs=1, warmup_epochs=0, batch_size=8, mask_ratio=0.75, precision="fp32", model=MODEL)
FINETUNE = dict(epochs=1, warmup_epochs=0, batch_size=7, rand_augment=False, precision="fp32", model=MODEL)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """YAML files of tiny trainings."""
    folder = tmp_path_factory.mktemp("configs")
    for name, settings in {"pretrain": PRETRAIN, "finetune": FINETUNE}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    files = {f"{name}_config": folder / f"{name}.yaml" for name in ("pretrain", "finetune")}
    return {**files, "preset": "svfap_debug"}


def rows_of(name: str, runs: ExperimentRuns) -> dict[str, StudyRow]:
    return {row.name: row for row in runs.rows(STUDIES[name])}


def test_rows_are_those_of_the_papers_tables(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    names = {name: list(rows_of(name, runs)) for name in STUDIES}
    assert names == {
        "scratch": ["from scratch", "pre-trained"],
        "schedule": ["1 epochs"],
        "scale": ["1%", "5%", "10%", "20%", "100%"],
        "masking": ["75%", "85%", "90%", "95%"],
        "variants": ["neither", "pyramid only", "bottleneck only", "both"],
        "fusion": ["no / no", "no / yes", "yes / no", "yes / yes"],
        "bottleneck": ["4", "8", "16"],
        "downsampling": ["avg", "max", "conv"],
        "videomae": ["VideoMAE's encoder", "SVFAP"],
        "few_shot": [f"{percent}%{start}" for start in ("", ", from scratch") for percent in (10, 25, 50, 100)],
    }


def test_the_papers_settings_have_the_same_scores_in_every_table(tmp_path, faces):
    """SVFAP-B pre-trained at 90% masking is a row of each table except that of Fig. 5, which gives no numbers."""
    videomae = tmp_path / "videomae.pth"
    videomae.touch()
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, videomae=str(videomae)))
    base = runs.finetunings(BASELINE)
    for name in STUDIES.keys() - {"schedule"}:
        (row,) = (row for row in rows_of(name, runs).values() if runs.finetunings(row) == base)
        assert row.paper.scores == pytest.approx({"uar": 0.6263, "war": 0.7481}), name
    scores = [row.paper.scores for name in STUDIES for row in rows_of(name, runs).values() if row.paper.scores]
    assert len(scores) == 2 + 5 + 4 + 4 + 4 + 3 + 3 + 2 + 2
    assert all(0 < score["uar"] < score["war"] < 1 for score in scores)


def test_each_study_has_one_reference_row_the_papers_default(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    references = {name: [row.name for row in rows_of(name, runs).values() if row.reference] for name in STUDIES}
    assert references == {
        "scratch": ["pre-trained"], "schedule": ["1 epochs"], "scale": ["100%"], "masking": ["90%"], "variants": ["both"],
        "fusion": ["yes / no"], "bottleneck": ["8"], "downsampling": ["conv"], "videomae": ["SVFAP"], "few_shot": ["100%"],
    }  # fmt: skip


def test_every_row_is_a_separate_training_that_tables_share(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, pretrainings=2, readings=3, **configs))
    base = runs.finetunings(BASELINE)
    assert [[config.seed for config in group] for group in base] == [[0, 1, 2], [100, 101, 102]]
    started = [{Path(config.init).name for config in group} for group in base]
    assert started == [{"pretrain-base-seed0"}, {"pretrain-base-seed1"}]
    probes = runs.probes(BASELINE)
    assert [Path(probe.weights).name for probe in probes] == ["pretrain-base-seed0", "pretrain-base-seed1"]
    assert [[file.name for file in probe.files("attentive")] for probe in probes] == [
        [f"attentive-seed{100 * p + r}.csv" for r in range(3)] for p in range(2)
    ]
    pretrained = {name: runs.pretrainings(row)[0] for name, row in rows_of("masking", runs).items()}
    assert [config.mask_ratio for config in pretrained.values()] == [0.75, 0.85, 0.9, 0.95]
    assert pretrained["75%"] == runs.pretrainings(BASELINE)[0], "the baseline's ratio is the baseline"
    for table, row in (("bottleneck", "8"), ("downsampling", "conv"), ("variants", "both"), ("fusion", "yes / no"),
                       ("scale", "100%"), ("schedule", "1 epochs"), ("few_shot", "100%")):  # fmt: skip
        assert runs.finetunings(rows_of(table, runs)[row]) == base, table
    by_folder = {}
    for row in (row for name in STUDIES for row in rows_of(name, runs).values()):
        for run in [*runs.pretrainings(row), *chain(*runs.finetunings(row)), *runs.probes(row)]:
            run = replace(run, linear="last") if isinstance(run, ProbeRun) else run  # each run has both
            assert by_folder.setdefault(run.out, run) == run, "one folder, one run"


def test_settings_of_rows(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    fused = {
        name: tuple(c.fuse_stages for c in reversed(runs.model_configs(row)))
        for name, row in rows_of("fusion", runs).items()
    }
    values = {"no": False, "yes": True}
    assert fused == {f"{a} / {b}": (values[a], values[b]) for a in values for b in values}
    assert [runs.pretrainings(row)[0].fraction for row in rows_of("scale", runs).values()] == [0.01, 0.05, 0.1, 0.2, 1]
    few = rows_of("few_shot", runs)
    for read in (lambda row: runs.finetunings(row)[0][0], lambda row: runs.probes(row)[0]):
        assert [read(row).fraction for row in few.values()] == [0.1, 0.25, 0.5, 1.0] * 2
    assert [runs.finetunings(row)[0][0].init is None for row in few.values()] == [False] * 4 + [True] * 4
    assert [probe.linear for row in rows_of("fusion", runs).values() for probe in runs.probes(row)[:1]] == [
        "last",
        "fused",
    ] * 2
    plain = runs.finetunings(rows_of("variants", runs)["neither"])[0][0].model
    assert (plain["temporal_pyramid"], plain["spatial_bottleneck"]) == (False, False)
    assert runs.pretrainings(rows_of("variants", runs)["neither"])[0].model == plain


def test_rows_from_scratch_have_as_many_readings_each_with_weights_of_its_own(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    scratch = rows_of("scratch", runs)["from scratch"]
    assert runs.pretrainings(scratch) == []
    seeds = [config.seed for config in chain(*runs.finetunings(scratch))]
    assert len(set(seeds)) == 9 and all(config.init is None for config in chain(*runs.finetunings(scratch)))
    assert [(probe.weights, probe.seed) for probe in runs.probes(scratch)] == [(None, 0), (None, 1), (None, 2)]
    assert runs.probes(scratch) == runs.untrained_probes()
    assert runs.probes(scratch)[0].shape.sampling_stride == resolve(runs.finetunings(scratch)[0][0]).sampling_stride


def test_weights_may_replace_pretraining(tmp_path, faces, configs):
    weights = tmp_path / "elsewhere"
    weights.mkdir()
    runs = experiment_runs(
        ExperimentConfig(out=tmp_path, dataset=faces, pretrainings=2, weights=str(weights), **configs)
    )
    assert runs.pretrainings(BASELINE) == [] and runs.starts_from_given(BASELINE)
    assert {config.init for config in chain(*runs.finetunings(BASELINE))} == {str(weights)}
    assert {probe.weights for probe in runs.probes(BASELINE)} == {str(weights)}
    assert len(runs.pretrainings(rows_of("masking", runs)["90%"])) == 2


def test_a_recipe_with_weights_can_be_used_unchanged(tmp_path, faces):
    """Its `init` replaces the baseline's pre-training; rows from scratch ignore it."""
    settings = yaml.safe_load(find_recipe("dfew").read_text())
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, finetune_config="dfew"))
    scratch, pretrained = (runs.finetunings(row)[0][0] for row in rows_of("scratch", runs).values())
    assert (scratch.init, pretrained.init) == (None, settings["init"]) and pretrained.dataset == faces
    assert runs.pretrainings(BASELINE) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_rl: 1", "base_rl"),
        ("epochs: many", "epochs"),
        ("seed: 3", "seed cannot be set here"),
        ("manifest: a.csv", "manifest cannot be set here"),
        ("dataset: [a:2, b:1]", "dataset=a:2, b:1: experiments take one dataset"),
        ("just words", ""),
    ],
)
def test_settings_are_read_as_the_command_reads_them(text, message, tmp_path, faces):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"settings.yaml: .*{message}"):
        experiment_runs(ExperimentConfig(out=tmp_path / "out", dataset=faces, finetune_config=file))


def test_settings_may_name_datasets(tmp_path, faces):
    (tmp_path / "a.yaml").write_text(f"dataset: {faces}\nfold: '1'\nbase_lr: 1e-3\nmodel: {{num_frames: 8}}")
    (tmp_path / "b.yaml").write_text(f"dataset: {tmp_path}")
    runs = experiment_runs(
        ExperimentConfig(out=tmp_path / "out", finetune_config=tmp_path / "a.yaml", pretrain_config=tmp_path / "b.yaml")
    )
    config = runs.finetunings(BASELINE)[0][0]
    assert (str(config.dataset), config.fold, config.base_lr) == (str(faces), "1", 0.001)
    assert str(runs.pretrain["dataset"]) == str(tmp_path)


def test_experiments_run_without_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        experiment("scratch", ExperimentConfig(out=tmp_path))


def test_videomae_is_its_checkpoint_or_its_encoder(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    plain, ours = (runs.model_configs(row)[0] for row in rows_of("videomae", runs).values())
    assert (plain.stage_depths, plain.embed_dim) == ((1,), 48) and ours.embed_dim == 32
    videomae = tmp_path / "videomae.pth"
    videomae.touch()
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, videomae=str(videomae)))
    rows = rows_of("videomae", runs)
    assert list(rows) == ["VideoMAE (Kinetics-400)", "SVFAP-B"]
    published = runs.finetunings(rows["VideoMAE (Kinetics-400)"])[0][0]
    assert (published.preset, published.init, published.epochs) == ("videomae_base", str(videomae), 100)
    assert runs.model_configs(rows["VideoMAE (Kinetics-400)"])[0].embed_dim == 768


@pytest.mark.slow
def test_a_table_has_the_scores_of_its_runs_and_no_run_is_repeated(tmp_path, faces, configs, monkeypatch, capsys):
    """Real runs, of which one is interrupted: the second call does the rest, the third nothing."""
    quick = partial(ProbeConfig, attentive_epochs=1, attentive_rates=[1e-3], attentive_decays=[0.1])
    monkeypatch.setattr(runs_module, "ProbeConfig", quick)
    how = {"out": tmp_path, "dataset": faces, "pretrainings": 2, "readings": 1, **configs}
    done = []

    def two_then_interrupted(run):
        done.append(run.out.name)
        return signal.SIGTERM if len(done) == 4 else do_one(run)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(runs_module, "do_one", two_then_interrupted)
        experiment("scratch", ExperimentConfig(**how))
    first = done[:3]
    assert first == ["probe-scratch-to-base-seed0", "finetune-scratch-to-base-seed0-0", "probe-scratch-to-base-seed1"]
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for name in first for file in (tmp_path / "runs" / name).rglob("*.csv")}
    assert before
    table = experiment("scratch", ExperimentConfig(**how))["scratch"]
    said = capsys.readouterr().err
    assert (
        "scratch: row 1 of 2, pre-training 2 of 2, " in said
        and "scratch: row 2 of 2, pre-training 1 of 2, about " in said
    )
    assert "row 1 of 2, pre-training 1 of 2" not in said, "what is there is not announced"
    assert {run.name for run in (tmp_path / "runs").iterdir() if run.is_dir()} == {
        *(f"pretrain-base-seed{p}" for p in (0, 1)), "probe-pixels",
        *(f"probe-{start}-to-base-seed{p}" for start in ("base", "scratch") for p in (0, 1)),
        *(f"finetune-{start}-to-base-seed{p}-0" for start in ("base", "scratch") for p in (0, 1)),
    }  # fmt: skip
    lines = json.loads((tmp_path / "scratch.json").read_text())["lines"]
    files = [tmp_path / "runs" / f"finetune-base-to-base-seed{p}-0" / "evaluation/metrics.json" for p in (0, 1)]
    uar = [json.loads(file.read_text())["uar"] for file in files]
    assert [group[0] for group in lines[1]["scores"]["uar"]["readings"]] == pytest.approx(uar)
    assert table["UAR, %"].iloc[1].split(" [")[0] == f"{100 * statistics.mean(uar):.1f}"
    assert load_model(tmp_path / "runs" / "finetune-scratch-to-base-seed0-0").config.provenance["init"] is None
    probe = probe_model(
        tmp_path / "runs" / "pretrain-base-seed0", ProbeConfig(dataset=faces, kind="linear", features="last")
    )
    linear = next(line for line in lines if (line["row"], line["reader"]) == ("pre-trained", "linear"))
    scores = {row.encoder: by_key["uar"].value for row, by_key in probe.scores.items()}
    assert linear["scores"]["uar"]["readings"][0] == pytest.approx([scores["trained"]]), "as `svfap probe` finds"
    untrained, pixels, chance = (
        next(line for line in lines if line["row"] == name) for name in ("untrained", "pixels", "chance")
    )
    assert untrained["scores"]["uar"]["readings"][0] == pytest.approx([scores["untrained"]])
    assert pixels["scores"]["uar"]["value"] == pytest.approx(scores["pixels"])
    assert chance["scores"]["uar"]["value"] == pytest.approx(scores["chance"]) == pytest.approx(1 / 7)
    assert not list((tmp_path / "runs").glob("probe-*/features")), "features are removed"
    assert {file: file.stat().st_mtime_ns for file in before} == before
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.csv")}
    capsys.readouterr()
    experiment("scratch", ExperimentConfig(**how))
    assert capsys.readouterr().err.splitlines() == ["scratch: 11 of 11 runs were done before"]
    monkeypatch.setattr(
        runs_module, "pretrain", lambda config: done.append(config.out.name) or TrainResult(finished=True)
    )
    command = [
        "experiment",
        "scratch",
        "--pretrainings",
        "2",
        "--readings",
        "1",
        "--readers",
        "[linear,attentive,finetune]",
    ]
    given = [f"--{name}={value}" for name, value in {"out": tmp_path, "dataset": faces, **configs}.items()]
    assert main([*command, *given]) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.csv")} == after
    shown = capsys.readouterr()
    assert "scratch" in shown.out and "p (Holm)" in shown.out and "parameters" not in shown.out
    assert "of 2, pre-training" not in shown.err

    runs = experiment_runs(ExperimentConfig(**how))
    probe = runs.probes(BASELINE)[0]
    other = replace(probe, config=replace(probe.config, attentive_epochs=3))
    with pytest.raises(
        UserError, match=r"settings.json: was made with other settings \(attentive_epochs: 1 then, 3 now"
    ):
        probe_encoder(other)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**FINETUNE, "batch_size": 14}))
    with pytest.raises(
        UserError, match=r"finetune-scratch-to-base-seed0-0/config.yaml: is of other settings .*batch_size: 7 then"
    ):
        experiment("scratch", ExperimentConfig(**{**how, "finetune_config": tmp_path / "other.yaml"}))
    damaged = tmp_path / "runs" / "probe-pixels" / "settings.json"
    damaged.write_text("{")
    with pytest.raises(UserError, match=r"probe-pixels/settings.json: is damaged"):
        probe_encoder(runs.pixel_probes([])[1.0][0])


def test_a_probe_with_few_labels_fits_that_part_of_them(tmp_path, faces, configs, monkeypatch):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, readings=2, **configs))
    (few,) = (row for row in rows_of("few_shot", runs).values() if row.name == "25%, from scratch")
    fitted = []

    def outputs(reader, tokens, name, parts, flat=True):
        fitted.append((name, flat, *(len(rows) for rows in parts.splits[0])))
        return parts.splits[0][1], np.ones((1 if flat else 2, 14, 7)), parts.targets()[parts.splits[0][1]]

    monkeypatch.setattr(probing_module, "read_outputs", outputs)
    assert probe_encoder(runs.probes(few)[1]) == 0
    assert fitted == [
        ("last", True, 7, 14),
        ("fused", True, 7, 14),
        ("tokens", True, 7, 14),
        ("tokens", False, 7, 14),
    ]  # of 35: at least 1 of 7 classes
    out, linear = runs.probes(few)[1].out, {"linear-last.csv", "linear-fused.csv", "linear-tokens.csv"}
    assert {file.name for file in out.glob("*.csv")} == linear | {"attentive-seed100.csv", "attentive-seed101.csv"}
    fitted.clear()
    (out / "linear-tokens.csv").unlink()  # as where this reader is asked for later
    assert probe_encoder(runs.probes(few)[1]) == 0
    assert fitted == [("tokens", True, 7, 14)], "the others are not done again"


@pytest.mark.parametrize(
    ("readers", "files"),
    [
        ("linear", {"linear-last.csv", "linear-fused.csv"}),
        ("linear_tokens", {"linear-tokens.csv"}),
        ("attentive", {"attentive-seed0.csv", "attentive-seed1.csv", "attentive-seed2.csv"}),
    ],
)
def test_each_reader_is_chosen_alone(tmp_path, faces, configs, readers, files):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, readers=readers, **configs))
    probe = runs.untrained_probes()[0]
    assert {file.name for group in probe.results.values() for file in group} == files
    assert {file.name for file in probe.files(readers)} <= files


def test_pixels_are_read_with_the_parts_of_the_labels_that_rows_have(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, pretrainings=2, **configs))
    few = rows_of("few_shot", runs)
    pixels = runs.pixel_probes(list(few.values()))
    assert list(pixels) == [1.0, 0.5, 0.25, 0.1] and all(probe.pixels for group in pixels.values() for probe in group)
    assert [probe.out.name for probe in pixels[1.0]] == ["probe-pixels"] * 2
    assert pixels[1.0] == runs.pixel_probes(list(rows_of("masking", runs).values()))[1.0]
    for probe, row in zip(pixels[0.25], runs.probes(few["25%"]), strict=True):
        assert (probe.fraction, probe.seed, probe.config) == (row.fraction, row.seed, row.config)
    steps = [step.run for step in runs.steps(list(few.values())) if step.row == 0]
    assert [run.out.name for run in steps] == [
        "probe-pixels", *(f"probe-pixels-fraction={part}-seed{seed}" for part in (0.5, 0.25, 0.1) for seed in (0, 1))
    ]  # fmt: skip
    assert {run.out for run in runs.pixel_probes([])[1.0]} == {tmp_path / "runs" / "probe-pixels"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="label"), "label"),
        (lambda table: table.assign(label=table["label"][0]), "all videos of the part that fits the readers are of class"),
        (lambda table: table.assign(subject=["s0"] * len(table)), "at least 2 people are needed"),
    ],
)  # fmt: skip
def test_labels_are_checked_before_anything_is_trained(change, message, tmp_path, faces, configs, monkeypatch):
    copy = tmp_path / "faces"
    shutil.copytree(faces, copy)
    for file in (copy / "train.csv", copy / "val.csv"):
        change(pd.read_csv(file)).to_csv(file, index=False)
    monkeypatch.setattr(runs_module, "run_all", lambda *arguments: pytest.fail("something was trained"))
    with pytest.raises(UserError, match=message):
        experiment("scratch", ExperimentConfig(out=tmp_path / "out", dataset=copy, **configs))


def test_test_videos_that_cannot_be_read_are_an_error(tmp_path, faces, configs):
    copy = tmp_path / "faces"
    shutil.copytree(faces, copy)
    runs = experiment_runs(ExperimentConfig(out=tmp_path / "out", dataset=copy, **configs))
    manifest = read_manifest(copy / "test.csv")
    manifest[3].path.write_bytes(b"no video")
    with pytest.raises(UserError, match=rf"{manifest[3].path.name}: 1 test videos could not be read"):
        probe_encoder(runs.pixel_probes([])[1.0][0])


def test_reconstructions(tmp_path, faces, configs, monkeypatch):
    monkeypatch.setattr(reconstructions_module, "NUM_MEASURED", 5)
    monkeypatch.setattr(reconstructions_module, "NUM_PICTURES", 2)
    config = ExperimentConfig(out=tmp_path, dataset=faces, **configs)
    table = experiment("reconstructions", config)["reconstructions"]
    errors = table["mean squared error"].astype(float)
    assert list(table["masking ratio"]) == ["75%", "85%", "90%", "95%"] and errors.between(0.3, 3).all()
    assert {file.name for file in tmp_path.glob("*.png")} == {"reconstructions_1.png", "reconstructions_2.png"}
    assert [run.name for run in (tmp_path / "runs").iterdir() if run.is_dir()] == ["pretrain-base-seed0"]


def test_the_time_left_is_that_of_each_kind_of_run(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    pretraining, probe, finetuning = (
        runs.pretrainings(BASELINE)[0],
        runs.probes(BASELINE)[0],
        runs.finetunings(BASELINE)[0][0],
    )
    clock = Clock()
    clock.add(replace(pretraining, epochs=2), 1200)
    assert clock.left([pretraining, finetuning]) == "time left not known yet"
    clock.add(finetuning, 600)
    clock.add(probe, 60)
    left = [replace(pretraining, epochs=8), finetuning, replace(finetuning, fraction=0.5), probe]
    assert clock.left(left) == "about 1 h 36 min left"
    assert (duration(5), duration(7 * 60), duration(6000)) == ("1 min", "7 min", "1 h 40 min")


def test_a_variant_is_a_row_of_its_own_that_is_pretrained_in_its_context(tmp_path, faces, configs, monkeypatch):
    where = []

    @contextmanager
    def within():
        where.append("in")
        yield
        where.append("out")

    monkeypatch.setattr(
        runs_module, "run_all", lambda work, runs, parallel: where.extend(run.out.name for run in runs) or 0
    )
    runs = experiment_runs(
        ExperimentConfig(
            out=tmp_path, dataset=faces, pretrainings=1, readings=1, parallel=2, readers="finetune", **configs
        )
    )
    steps = runs.steps([StudyRow("plain"), StudyRow("changed", variant="leak", within=within)])
    do_all("faults", runs, [step for step in steps if step.row], 2)
    assert where == [
        "pretrain-base-seed0", "finetune-base-to-base-seed0-0", "in", "pretrain-leak-base-seed0", "out",
        "finetune-leak-base-to-base-seed0-0",
    ]  # fmt: skip
    do_all("faults", runs, [step for step in steps if step.row], 2)
    assert len(where) == 6, "done once in a call"


def test_in_parallel_pretrainings_come_first(tmp_path, faces, configs, monkeypatch):
    given = []
    monkeypatch.setattr(runs_module, "run_all", lambda work, runs, parallel: given.append((parallel, len(runs))) or 0)
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, parallel=2, readings=2, **configs))
    do_all("masking", runs, runs.steps(runs.rows(STUDIES["masking"])), 4)
    assert given == [(2, 4 * 3), (2, 4 * 3 * 3 + 4)]


def test_no_runs_are_interrupted_silently(tmp_path, faces, configs, monkeypatch, capsys):
    monkeypatch.setattr(runs_module, "do_one", lambda run: signal.SIGTERM)
    arguments = ["--dataset", str(faces), *(f"--{name}={value}" for name, value in configs.items())]
    assert main(["experiment", "scratch", "--out", str(tmp_path), *arguments]) == 128 + signal.SIGTERM
    assert "interrupted and saved; the same command continues it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "experiment 'nonsense' is none of scratch"),
        (["scratch", "--pretrainings", "0"], "pretrainings=0"),
        (["scratch", "--readings", "0"], "readings=0"),
        (["scratch", "--readings", "101"], "readings=101: must be at most 100"),
        (["scratch", "--readers", "[guess]"], "readers='guess' is none of finetune, linear, linear_tokens, attentive"),
        (["scratch", "--parallel", "0"], "parallel=0"),
        (["scratch", "--dataset", "nowhere"], "dataset=nowhere: holds no dataset.json"),
        (["scratch", "--pretrain_dataset", "nowhere"], "pretrain_dataset=nowhere: holds no dataset.json"),
        (
            ["scratch", "--dataset", "FACES", "--weights", "nowhere.pth"],
            "weights=nowhere.pth: no such folder or checkpoint",
        ),
        (
            ["videomae", "--dataset", "FACES", "--videomae", "nowhere.pth"],
            "videomae=nowhere.pth: no such folder or checkpoint",
        ),
        (["scratch", "--dataset", "FACES", "--fold", "7"], "no fold '7'"),
        (["scratch", "--dataset", "FACES", "--finetune_config", "nowhere.yaml"], "finetune_config=nowhere.yaml: "),
    ],
)
def test_mistakes(arguments, message, tmp_path, faces, capsys):
    arguments = [str(faces) if argument == "FACES" else argument for argument in arguments]
    assert main(["experiment", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "svfap_nope"], "unknown preset 'svfap_nope'"),
        (["--fold", "7"], "no fold '7'"),
        (["--finetune_config", "model: {embed_dmi: 3}"], "unknown model setting 'embed_dmi'"),
        (["--finetune_config", "init: nowhere.pth"], "init=nowhere.pth: no such folder or checkpoint"),
        (["--finetune_config", "loss: ccc"], "loss=ccc: is for regression"),
        (["--pretrain_config", "model: {num_heads: 7}"], "num_heads"),
        (["--pretrain_dataset", "UNLABELLED"], "has no videos for pre-training"),
    ],
)
def test_settings_are_checked_before_faces_are_rendered(arguments, message, tmp_path, monkeypatch, capsys):
    from svfap.synth import dataset as synth

    monkeypatch.setattr(synth, "synthesize", lambda config: pytest.fail("rendered before the settings were checked"))
    described = replace(synth.describe_dataset(synth.SynthConfig(out=tmp_path)), pretrain=None)
    synth.write_dataset_file(tmp_path, described)
    option, value = arguments
    if option.endswith("config"):
        (tmp_path / "settings.yaml").write_text(value)
        value = str(tmp_path / "settings.yaml")
    value = str(tmp_path) if value == "UNLABELLED" else value
    assert main(["experiment", "masking", "--out", str(tmp_path / "out"), option, value]) == 1
    assert message in capsys.readouterr().err


def test_weights_may_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    assert ExperimentConfig(weights="someone/svfap_base").weights == "someone/svfap_base"
    with pytest.raises(UserError, match="no such folder or checkpoint"):
        ExperimentConfig(weights=f"{tmp_path}/svfap_base")


def test_help_and_mistakes_do_not_import_torch():
    """An unknown name and a missing file are reported at once, and --help lists every experiment."""
    script = """
import sys
from svfap.cli.main import main
from svfap.console import duration
assert main(["experiment", "nonsense"]) == 1
assert main(["experiment", "scratch", "--finetune_config", "nowhere.yaml"]) == 1
try:
    main(["experiment", "--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"torch", "pandas", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for name in EXPERIMENTS:
        assert f"{name}: " in shown
    assert "masking: masking ratio (Table 2)" in shown


def test_synthetic_settings_are_valid_and_need_no_further_files(tmp_path, monkeypatch):
    """What runs by default: the files lie in the package and are settings that exist."""
    from svfap.synth import dataset as synth

    def described(config):
        assert config.num_pretrain == yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())["num_pretrain"]
        config.out.mkdir(parents=True)
        synth.write_dataset_file(config.out, synth.describe_dataset(config))

    monkeypatch.setattr(synth, "synthesize", described)
    runs = experiment_runs(ExperimentConfig(out=tmp_path))
    tuned, masked = runs.model_configs(BASELINE)
    assert tuned.embed_dim == masked.embed_dim and masked.mask_ratio == 0.75
    for name in STUDIES:
        for row in rows_of(name, runs).values():
            assert runs.finetunings(row) and (row.pretrain is None or runs.pretrainings(row))
    synthetic = yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())
    assert (synthetic["num_train"], synthetic["num_test"]) == (1400, 2100), "a small standard error needs many"
    assert set(EXPERIMENTS) == {*STUDIES, "reconstructions", "all"}


def test_a_number_in_a_settings_file_names_a_fold(tmp_path):
    (tmp_path / "recipe.yaml").write_text("fold: 1\nlabel_names: [0, 1]\n")
    settings = read_settings(FinetuneConfig, tmp_path / "recipe.yaml")
    assert (settings["fold"], settings["label_names"]) == ("1", ["0", "1"])
