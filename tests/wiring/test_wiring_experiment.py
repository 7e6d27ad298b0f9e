"""Every setting of `svfap experiment` gets into the trainings that it starts. Trainings are noted, not done."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from observe import LABELS, Effect, check
from stub_runs import StubRuns

import svfap.experiments.experiment as experiment_module
import svfap.experiments.runs as runs_module
from svfap.data.prepared import Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.errors import Interrupted
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import experiment
from svfap.model.complexity import complexity
from svfap.model.config import ModelConfig
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig

OPEN = {"dataset": "other"}  # a dataset without videos for pre-training
EFFECTS: dict[str, Effect] = {
    "out": Effect({}, {"out": "there"}, ("out",), ("pretrain", "finetune", "starts")),
    "dataset": Effect({}, {"dataset": "more"}, ("datasets",), ("recipes", "seeds")),
    "fold": Effect({}, {"fold": "b"}, ("folds",), ("pretrain", "starts")),
    "pretrain_dataset": Effect(
        {**OPEN, "pretrain_dataset": "prepared"}, {**OPEN, "pretrain_dataset": "more"}, ("pretrain",), ("finetune",)
    ),
    "pretrain_config": Effect({}, {"pretrain_config": "pretrain.yaml"}, ("pretrain",), ("finetune", "seeds")),
    "finetune_config": Effect({}, {"finetune_config": "finetune.yaml"}, ("finetune",), ("pretrain", "starts")),
    "preset": Effect({}, {"preset": "svfap_tiny"}, ("presets",), ("starts", "datasets")),
    "weights": Effect({}, {"weights": "weights"}, ("pretrain", "starts"), ("finetune", "seeds")),
    "videomae": Effect(
        {"name": "videomae"}, {"name": "videomae", "videomae": "weights"}, ("starts", "presets", "rows")
    ),
    "pretrainings": Effect({}, {"pretrainings": 2}, ("pretrain", "starts", "seeds", "probes", "intervals"), ("rows",)),
    "readings": Effect({}, {"readings": 2}, ("seeds", "probes"), ("pretrain", "rows")),
    "readers": Effect(
        {"readers": ["finetune"]}, {"readers": ["linear", "attentive"]}, ("finetune", "probed", "rows"), ("pretrain",)
    ),
    "parallel": Effect({"parallel": 1}, {"parallel": 2}, ("parallel",), ("pretrain", "finetune")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_experiment")
    for name in ("prepared", "more", "other"):
        (folder / name).mkdir()
        (folder / name / "m.csv").write_text("path,label,subject\na.mp4,sad,x\nb.mp4,happy,y\n")
        (folder / name / "test.csv").write_text("path,label,subject\nc.mp4,sad,v\nd.mp4,happy,w\n")
        for video in "abcd":
            (folder / name / f"{video}.mp4").touch()
        folds = tuple(Fold(fold, Path("m.csv"), Path("test.csv")) for fold in "ab")
        pretrain = None if name == "other" else Path("m.csv")
        described = PreparedDataset("own", "Own", "classification", Path("."), LABELS, folds, pretrain, ("uar", "war"))
        write_dataset_file(folder / name, described)
    (folder / "pretrain.yaml").write_text(yaml.safe_dump({"epochs": 7}))
    (folder / "finetune.yaml").write_text(yaml.safe_dump({"smoothing": 0.3}))
    (folder / "weights").mkdir()
    return folder


class Runs:
    """Runs by their settings; each is done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, dict[str, Any]] = {}
        self._costs: dict[str, Any] = {}

    def __call__(self, settings: dict[str, Any]) -> dict[str, Any]:
        key = str(sorted(settings.items(), key=str))
        if key not in self._done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(experiment_module, "complexity", self.complexity)
                self._done[key] = observed(self.folder, self.folder / f"run_{len(self._done)}", settings)
        return self._done[key]

    def complexity(self, config: ModelConfig) -> Any:
        """The costs of a model, which are counted once."""
        key = repr(config)
        if key not in self._costs:
            self._costs[key] = complexity(config)
        return self._costs[key]


@pytest.fixture(scope="module")
def runs(folder) -> Runs:
    return Runs(folder)


def observed(folder: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    chosen = {
        "name": "scratch",
        "dataset": "prepared",
        "preset": "svfap_debug",
        "pretrainings": 1,
        "readings": 1,
        "out": "here",
    }
    chosen |= settings
    name = chosen.pop("name")
    for setting in ("dataset", "pretrain_dataset", "pretrain_config", "finetune_config"):
        if setting in chosen:
            chosen[setting] = folder / chosen[setting]
    for setting in ("weights", "videomae"):
        if setting in chosen:
            chosen[setting] = str(folder / chosen[setting])
    config = ExperimentConfig(**{**chosen, "out": out / chosen["out"]})
    stub = StubRuns(read_dataset(config.dataset))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "run_all", stub)
        patch.setattr(experiment_module, "save_figure", lambda figure, file: file.touch())
        (table,) = experiment(name, config).values()
    trained = [*stub.of(PretrainConfig), *stub.of(FinetuneConfig)]
    assert {f"{name}.{suffix}" for suffix in ("md", "csv", "tex", "json", "png")} <= {
        p.name for p in config.out.iterdir()
    }
    finetune = stub.of(FinetuneConfig)

    def shown(configs: Sequence[TrainConfig]) -> list[dict[str, Any]]:
        left_out = ("out", "init")
        return [{n: str(v) for n, v in vars(one).items() if n not in left_out} for one in configs]

    return {
        "out": config.out.name,
        "rows": table.iloc[:, :2].to_numpy().tolist(),
        "pretrain": shown(stub.of(PretrainConfig)),
        "finetune": shown(finetune),
        "recipes": [(one.epochs, one.batch_size, one.base_lr) for one in trained],
        "datasets": [one.dataset for one in trained],
        "folds": [one.fold for one in finetune],
        "presets": [one.preset for one in trained],
        "seeds": [one.seed for one in finetune],
        "starts": [one.init and Path(one.init).name for one in finetune],
        "probes": [(probe.out.name, probe.seed, probe.config.seed, probe.config.num_seeds) for probe in stub.probes],
        "probed": [probe.weights and Path(probe.weights).name for probe in stub.probes],
        "intervals": ["[" in cell for cell in table["UAR, %"]],
        "parallel": stub.parallel,
    }


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_experiments_has_its_effect(name, runs):
    effect = EFFECTS[name]
    check(effect, runs(effect.a), runs(effect.b))


def test_reconstructions_pre_train_in_parallel_too(folder, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(runs_module, "run_all", lambda work, configs, parallel: given.append(parallel) or signal.SIGINT)
    config = ExperimentConfig(out=tmp_path, dataset=folder / "prepared", preset="svfap_debug", parallel=3)
    with pytest.raises(Interrupted):
        experiment("reconstructions", config)
    assert given == [3]


TESTED = {ExperimentConfig: {*EFFECTS}}
