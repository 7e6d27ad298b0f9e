"""The benchmarks start, and the faults that one of them reproduces have the effect that it describes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from svfap.model.presets import model_config

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FOLDERS = (BENCHMARKS, BENCHMARKS / "faults")
SHARED = {"common", "plain", "workbench"}
SCRIPTS = sorted(path.stem for folder in FOLDERS for path in folder.glob("*.py") if path.stem not in SHARED)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Imports as from a script in the folder; its modules are forgotten afterwards."""
    before = set(sys.modules)
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in {*SHARED, *SCRIPTS} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmarks_start(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert f"usage: {script}.py" in capsys.readouterr().out


@pytest.mark.parametrize(("leak", "misplaced"), [(False, False), (True, False), (False, True), (True, True)])
def test_hidden_pixels_influence_the_encoder_only_with_the_leak(leak, misplaced):
    benchmark = importlib.import_module("published_faults")
    config = model_config("svfap_debug", "pretraining", mask_ratio=0.75)
    with benchmark.faults(leak, misplaced):
        influence = benchmark.influence_of_hidden_pixels(config)
    assert influence > 1e-3 if leak else influence == 0
    assert benchmark.influence_of_hidden_pixels(config) == 0  # the package itself is unchanged


def test_the_misplaced_fusion_changes_the_output():
    import torch

    benchmark = importlib.import_module("published_faults")
    tokens = torch.arange(2 * 4 * 6 * 3.0).view(2, 4, 6, 3)
    expected = tokens.repeat_interleave(2, dim=1)
    found = benchmark.misplaced_upsample(tokens, 8)
    assert found.shape == expected.shape and not torch.equal(found, expected)
    assert torch.equal(found.sum(dim=(1, 2)), expected.sum(dim=(1, 2)))  # the same tokens at other positions


def test_rows_of_the_faults_are_pretrained_with_them_and_told_apart(tmp_path, faces, monkeypatch):
    """The study of the faults goes through the machinery of experiments, on runs of a known score."""
    from stub_runs import StubRuns

    import svfap.experiments.runs as runs_module
    from svfap.data.prepared import read_dataset
    from svfap.experiments.config import ExperimentConfig
    from svfap.experiments.experiment import experiment_runs, run_study
    from svfap.model.encoder import TPSBT
    from svfap.train.config import PretrainConfig

    benchmark = importlib.import_module("published_faults")
    found = {}

    class Noted(StubRuns):
        def __call__(self, work, runs, parallel=None):
            for run in runs:
                if isinstance(run, PretrainConfig):
                    found[run.out.name] = TPSBT.forward is benchmark.leaky_forward
                    run.out.mkdir(parents=True)
                    (run.out / "log.jsonl").write_text('{"loss": 0.5}\n{"loss": 0.7}\n')
            return super().__call__(work, runs, parallel)

    stub = Noted(read_dataset(faces))
    monkeypatch.setattr(runs_module, "run_all", stub)
    runs = experiment_runs(
        ExperimentConfig(
            out=tmp_path, dataset=faces, preset="svfap_debug", pretrainings=2, readings=1, readers="finetune"
        )
    )
    table = run_study("faults", benchmark.STUDY, runs, lambda row: benchmark.of_pretraining(runs, row))
    names = {"": False, "leak-": True, "misplaced-": False, "leakmisplaced-": True}
    assert found == {f"pretrain-{name}base-seed{seed}": leak for name, leak in names.items() for seed in (0, 1)}
    assert TPSBT.forward is benchmark.encoder_forward
    cells = table[table["read by"] == "fine-tuning"].set_index("pre-trained with")
    assert list(cells["pre-training loss"]) == ["0.600"] * 4
    assert [float(cell) > 0 for cell in cells["influence of hidden pixels"]] == [False, True, False, True]
    assert cells["difference to neither (this package)"].iloc[0] == "reference"
    assert (tmp_path / "faults.md").exists()
