"""`svfap sweep`: plans, errors before anything runs, resuming, contradictions, and the choice by validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_runs import write_training

from svfap.cli.main import main
from svfap.errors import Diverged, Interrupted, UserError
from svfap.sweep import sweep as module
from svfap.sweep.config import SweepConfig
from svfap.sweep.plan import read_plan
from svfap.sweep.sweep import run_sweep
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.resolve import resolve
from svfap.train.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def file(faces, tmp_path) -> Callable[..., Path]:
    """Writes the file of a sweep; `settings` are added to those of a small training."""

    def write(settings=None, **entries) -> Path:
        small = {"dataset": str(faces), "preset": "svfap_debug", "sampling_stride": 1, "precision": "fp32", "epochs": 1}
        small |= {"num_workers": 0, "batch_size": 7, "warmup_epochs": 0}
        content = {
            "settings": {**small, **(settings or {})},
            "choices": {"base_lr": [0.01, 0.1]},
            "seeds": 2,
            **entries,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


class Stub:
    """In place of `run_all`: writes runs with a given score. stop: interrupt after so many. key: of the score in the log."""

    def __init__(self, score: Callable[[FinetuneConfig], float], stop: int | None = None, key: str = "uar") -> None:
        self.score, self.stop, self.key, self.done, self.parallel = score, stop, key, [], []

    def __call__(self, run, configs, parallel=None) -> int:
        self.parallel.append(parallel)
        for config in configs:
            if self.stop is not None and len(self.done) >= self.stop:
                return 15
            self.done.append(config)
            if (score := self.score(config)) < 0:
                config.out.mkdir(parents=True)
                (config.out / "failed.txt").write_text(f"{Diverged.START}: the loss is nan")
            else:
                kind = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
                write_training(config.out, (score,), kind=kind, key=self.key, base_lr=config.base_lr)
                # As a real run would, for `RunFolder.check`.
                (config.out / "config.yaml").write_text(
                    yaml.safe_dump(RunFolder(resolve(replace(config, resume=True))).settings)
                )
        return 0


def stub(monkeypatch, score, stop=None, key="uar") -> Stub:
    one = Stub(score, stop, key)
    monkeypatch.setattr(module, "run_all", one)
    return one


def test_the_best_mean_of_all_seeds_is_written_for_config(file, tmp_path, monkeypatch):
    scores = {(0.01, 0): 0.5, (0.01, 1): 0.25, (0.1, 0): 0.375, (0.1, 1): 0.4375, (1.0, 0): 0.875, (1.0, 1): -1}
    runs = stub(monkeypatch, lambda run: scores[run.base_lr, run.seed])
    done = run_sweep(file(choices={"base_lr": [0.01, 0.1, 1]}), SweepConfig(out=tmp_path / "out", parallel=3))
    assert [(run.base_lr, run.seed) for run in runs.done] == [(r, s) for s in (0, 1) for r in (0.01, 0.1, 1.0)]
    assert runs.parallel == [3]
    assert done.table["trial"].tolist() == ["trial_002", "trial_001", "trial_003"]  # the last has diverged once
    first = done.table.iloc[0]
    assert (first["mean"], first["num_seeds"], first["num_diverged"]) == (0.40625, 2, 0)
    assert first["sd"] == pytest.approx(0.044194, abs=1e-6)
    assert first["high"] - first["mean"] == pytest.approx(12.7062 * 0.03125, abs=1e-5)
    assert done.caption.startswith("Validation UAR, %: mean, standard deviation and 95% interval")
    assert "No test part was read. The best of 3 is chosen by this score" in done.caption
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["base_lr"] == 0.1 and not {"seed", "out"} & set(best)
    words = ["--config", str(tmp_path / "out" / "best.yaml"), "--out", str(tmp_path / "best"), "--epochs", "1"]
    assert main(["finetune", *words]) == 0
    assert (tmp_path / "best" / "metrics.json").is_file()
    assert {"trials.md", "trials.csv", "trials.tex", "trials.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    written = json.loads((tmp_path / "out" / "trials.json").read_text())
    assert written["scores"]["trial_001"] == {"0": 0.5, "1": 0.25}


def test_the_same_command_goes_on_and_more_may_be_added(file, tmp_path, monkeypatch):
    out = SweepConfig(out=tmp_path / "out")
    runs = stub(monkeypatch, lambda run: run.base_lr, stop=3)
    with pytest.raises(Interrupted, match="the same command continues it"):
        run_sweep(file(), out)
    runs = stub(monkeypatch, lambda run: run.base_lr)
    run_sweep(file(), out)
    assert [(run.base_lr, run.seed) for run in runs.done] == [(0.1, 1)]
    runs = stub(monkeypatch, lambda run: -1 if run.base_lr == 1 else run.base_lr)
    more = file(choices={"base_lr": [1, 0.1, 0.01]}, seeds=[0, 1, 4])
    run_sweep(more, out)
    assert [run.out.name for run in runs.done] == [
        *("trial_003-seed0", "trial_003-seed1"),
        *("trial_003-seed4", "trial_002-seed4", "trial_001-seed4"),
    ]
    runs = stub(monkeypatch, lambda run: 0.5)
    run_sweep(more, out)
    assert runs.done == []  # what has diverged would do so again


def test_a_file_that_contradicts_what_is_done_is_refused(file, tmp_path, monkeypatch):
    out = SweepConfig(out=tmp_path / "out")
    stub(monkeypatch, lambda run: 0.5)
    run_sweep(file(), out)
    for changed, message in (
        (
            dict(choices={"base_lr": [0.01]}),
            r"base_lr=0.1 with seed 0 has been tried .*trial_002-seed0. and is not in the file",
        ),
        (dict(seeds=[0]), "base_lr=0.01 with seed 1 has been tried"),
        (dict(settings={"smoothing": 0.2}), "was made with other settings .smoothing: None then, 0.2 now"),
    ):
        with pytest.raises(UserError, match=message):
            run_sweep(file(**changed), out)
    run_sweep(file(settings={"num_workers": 1}), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(UserError, match="holds other files and no sweep"):
        run_sweep(file(), SweepConfig(out=tmp_path / "other"))


def test_other_draws_are_named_as_such_and_a_grid_has_none(file, tmp_path, monkeypatch):
    stub(monkeypatch, lambda run: 0.5)
    drawn = dict(choices={"base_lr": {"uniform": [0.1, 0.2]}}, trials=2)
    run_sweep(file(**drawn), SweepConfig(out=tmp_path / "drawn"))
    with pytest.raises(UserError, match="other settings .draw_seed: 0 then, 1 now"):
        run_sweep(file(**drawn, draw_seed=1), SweepConfig(out=tmp_path / "drawn"))
    run_sweep(file(), SweepConfig(out=tmp_path / "grid"))
    run_sweep(file(draw_seed=1), SweepConfig(out=tmp_path / "grid"))


def test_trials_that_are_equal_are_named(file, tmp_path, monkeypatch):
    stub(monkeypatch, lambda run: 0.5 if run.base_lr < 1 else 0.25)
    done = run_sweep(file(choices={"base_lr": [2, 0.1, 0.01]}), SweepConfig(out=tmp_path / "out"))
    assert "trial_002, trial_003 are equal by it; the first in the file, trial_002, is taken" in done.caption


def test_draws_are_within_their_ranges_and_more_begin_with_the_same(file):
    choices = {
        "base_lr": {"log_uniform": [1e-5, 1e-1]},
        "layer_decay": {"uniform": [0.5, 0.9]},
        "mixup": [0, 0.8],
        "model.num_bottleneck_tokens": [2, 4],
    }
    few, many = (read_plan(file(choices=choices, trials=number)).trials for number in (5, 40))
    assert many[:5] == few and len({json.dumps(trial) for trial in many}) == 40
    rates = [trial["base_lr"] for trial in many]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates) and sum(rate < 1e-3 for rate in rates) > 10
    assert all(0.5 <= trial["layer_decay"] <= 0.9 for trial in many)
    assert {trial["mixup"] for trial in many} == {0, 0.8}
    assert read_plan(file(choices=choices, trials=5, draw_seed=1)).trials != few
    plan = read_plan(file({"model": {"embed_dim": 16}}, choices=choices, trials=5))
    config = plan.config(plan.trials[0], 3, Path("o"))
    assert config.model == {"embed_dim": 16, "num_bottleneck_tokens": plan.trials[0]["model.num_bottleneck_tokens"]}
    assert config.seed == 3
    grid = {"mixup": [0, 0.8], "cutmix": [0, 1.0]}
    assert len(read_plan(file(choices=grid)).trials) == 4 == len(read_plan(file(choices=grid, trials=9)).trials)
    assert len(read_plan(file(choices=grid, trials=3)).trials) == 3


@pytest.mark.parametrize(
    ("settings", "entries", "message"),
    [
        ({}, dict(choises={}), "choises is none of verb, settings, choices, .*Did you mean 'choices'"),
        ({}, dict(verb="evaluate"), "verb: 'evaluate' is none of finetune, pretrain"),
        ({}, dict(choices={}), "choices: is empty"),
        ({}, dict(choices={"bass_lr": [1]}), "bass_lr is no setting of svfap finetune. Did you mean 'base_lr'"),
        ({"bach_size": 1}, {}, "bach_size is no setting of svfap finetune. Did you mean 'batch_size'"),
        ({}, dict(choices={"base_lr": [0.1, "much"]}), "base_lr=much: base_lr: Expected a number. Got value: much$"),
        ({"label_names": 3}, {}, "yaml.*: label_names: Expected a list of texts or null. Got value: 3$"),
        ({}, dict(choices={"smoothing": [0.1, 2]}), "smoothing=2: smoothing=2.0: must be from 0 to less than 1"),
        ({}, dict(choices={"model.embed_dimm": [16]}), "embed_dimm"),
        ({"model": 3}, dict(choices={"model.embed_dim": [16]}), "settings: model: 3 must be names with values"),
        ({}, dict(choices={"model.a.b": [16]}), "model.a.b: write model.SETTING"),
        ({}, dict(choices={"heads.affect": [16]}), "heads.affect: write heads.NAME.SETTING"),
        ({}, dict(choices={"heads.affect.weight": [1]}), "`settings` has no head 'affect'; give `heads` there"),
        (
            {"heads": {"affect": {"task": "classification"}}},
            dict(choices={"heads.afect.weight": [1]}),
            "`settings` has no head 'afect'; there are affect. Did you mean 'affect'",
        ),
        (
            {"heads": {"affect": {"task": "classification"}}},
            dict(choices={"heads.affect.wait": [1]}),
            "heads: affect: 'wait' is no setting of a head for classification; there are task, weight",
        ),
        ({}, dict(choices={"seed": [1]}), "seed cannot be set here; it is `seeds`"),
        ({"out": "x"}, {}, "out cannot be set here"),
        ({}, dict(choices={"epochs": [1]}), "epochs is in settings and in choices"),
        ({}, dict(choices={"base_lr": []}), "base_lr has no values"),
        ({}, dict(choices={"base_lr": [1, 1]}), "base_lr has 1 twice"),
        ({}, dict(choices={"base_lr": 0.1}), "base_lr must be a list of values, or a range"),
        ({}, dict(choices={"base_lr": {"uniform": [0, 1]}}), "base_lr is a range; say with `trials` how many"),
        ({}, dict(choices={"base_lr": {"uniform": [1, 0]}}, trials=2), "needs two numbers, the smaller one first"),
        ({}, dict(choices={"base_lr": {"log_uniform": [0, 1]}}, trials=2), "needs two numbers, above 0"),
        ({}, dict(seeds=0), "seeds: 0 must be|seeds"),
        ({}, dict(seeds=[1, 1]), "a seed is listed twice"),
        ({}, dict(trials=0), "trials: 0 must be a whole number, at least 1"),
        ({"fold": "all"}, {}, "name the fold"),
        ({"dataset": None, "manifest": "none.csv"}, {}, "manifest=none.csv: no such file"),
        ({}, dict(verb="pretrain"), "pre-training is chosen by probes; set probe_every"),
    ],
)
def test_mistakes_are_found_before_anything_runs(settings, entries, message, file, tmp_path, monkeypatch):
    runs = stub(monkeypatch, lambda run: 0.5)
    with pytest.raises(UserError, match=message):
        run_sweep(file(settings, **entries), SweepConfig(out=tmp_path / "out"))
    assert runs.done == [] and not (tmp_path / "out").exists()


HEADS = {
    "affect": {"task": "regression", "dimensions": ["valence", "arousal"], "loss": "ccc"},
    "expression": {"task": "classification"},
}


def test_a_setting_of_a_head_is_tried_by_its_name(file, faces, tmp_path, monkeypatch):
    """With the head's other settings as they are shared; the best is chosen by the mean of all heads, or by one."""
    score = {0.1: 0.5, 2.0: 0.75}
    for key, limits in (("mean_score", (-1, 1)), ("expression/uar", (0, 1))):
        runs = stub(monkeypatch, lambda run: score[run.heads["affect"]["weight"]] if run.seed else 0.125, key=key)
        settings = {"heads": HEADS, "best_by": None if key == "mean_score" else key.partition("/")[0]}
        settings |= {"dataset": None, "manifest": str(faces / "train.csv"), "val_manifest": str(faces / "val.csv")}
        path = file(settings, choices={"heads.affect.weight": [0.1, 2.0]})
        done = run_sweep(path, SweepConfig(out=tmp_path / key))
        assert runs.done[0].heads == {**HEADS, "affect": {**HEADS["affect"], "weight": 0.1}}
        assert done.metric == key and done.summary["heads.affect.weight"].tolist() == ["2", "0.1"]
        assert list(zip(done.table["low"], done.table["high"], strict=True)) == [limits] * 2
        written = (tmp_path / key / "best.yaml").read_text()
        assert ": heads.affect.weight=2\n" in written
        assert yaml.safe_load(written)["heads"] == {**HEADS, "affect": {**HEADS["affect"], "weight": 2.0}}


def test_a_sweep_needs_a_validation_part(file, faces, tmp_path, monkeypatch):
    stub(monkeypatch, lambda run: 0.5)
    settings = {"dataset": None, "manifest": str(faces / "train.csv"), "val_fraction": 0}
    with pytest.raises(UserError, match="no validation part to choose by"):
        run_sweep(file(settings), SweepConfig(out=tmp_path / "out"))


def test_pretraining_is_chosen_by_its_probes(file, faces, tmp_path, monkeypatch):
    stub(monkeypatch, lambda run: run.mask_ratio / 2)
    settings = {"probe_every": 1, "probe_dataset": str(faces), "batch_size": 8}
    done = run_sweep(
        file(settings, verb="pretrain", choices={"mask_ratio": [0.5, 0.75]}, seeds=1), SweepConfig(out=tmp_path / "out")
    )
    assert done.metric == "probe_uar" and done.caption.startswith("Probe UAR")
    assert done.best is not None and done.best["mask_ratio"] == 0.75


def test_a_run_that_diverges_does_not_end_the_sweep(file, tmp_path, capsys):
    """A real one, through the command."""
    path = file(choices={"base_lr": [1e8, 0.01]}, seeds=1)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "training has diverged" in printed.err and "trial_002" in printed.out
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["base_lr"] == 0.01
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "2 runs, 2 of them done before" in capsys.readouterr().err
