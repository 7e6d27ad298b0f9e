"""The benchmarks start, and the faults that one of them reproduces have the effect that it describes."""

from __future__ import annotations

import importlib
import json
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


def test_the_gpu_benchmark_ends_with_an_error_if_a_precision_is_off(monkeypatch, tmp_path, capsys):
    benchmark = importlib.import_module("gpu")
    arguments = ["gpu.py", "--device", "cpu", "--size", "tiny", "--seconds", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(benchmark, "TASKS", ("fine-tuning",))
    monkeypatch.setitem(benchmark.LIMITS, "bf16", {"output": 1e-9, "gradient": 1.0, "learning": 1.0})
    assert benchmark.main() == 1
    assert "Left out for lack of time: fine-tuning: fp16, waits; " in capsys.readouterr().out
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["fits"] for row in results["correctness"]] == [False, True, True, True, True, True]
    assert "| fine-tuning, bf16, output |" in (tmp_path / "gpu.md").read_text()


def test_the_gpu_benchmark_compares_the_best_row_with_the_reference():
    benchmark = importlib.import_module("gpu")
    reference = {
        "task": "fine-tuning",
        "row": "fp16, waits",
        "ms": 1,
        "clips_per_s": 10,
        "share_of_matrix_rate": 0.1,
        "peak_gb": 20,
    }
    ours = [
        {**reference, "row": "bf16", "clips_per_s": 20, "share_of_matrix_rate": 0.2},
        {**reference, "row": "bf16, compiled", "clips_per_s": 30, "share_of_matrix_rate": 0.3, "peak_gb": 15},
        {"task": "fine-tuning", "row": "bf16, compiled, checkpointed", "error": "out of memory"},
    ]
    found = benchmark.compare([reference, *ours])
    assert found == {
        "fine-tuning: speed ÷ fp16 with waits": 3.0,
        "fine-tuning: share of the matrix rate": 0.3,
        "fine-tuning: peak memory ÷ fp16 with waits": 0.75,
    }
    assert benchmark.compare(ours) == {}
    budget = benchmark.Budget(seconds=100.0)
    assert budget.run("compiled", lambda: None) and budget.taken["compiled"] < 1
    assert not benchmark.Budget(seconds=80.0).run("compiled", lambda: None)


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_row(monkeypatch, tmp_path):
    benchmark = importlib.import_module("gpu")
    arguments = [
        "gpu.py",
        "--device",
        "cpu",
        "--size",
        "tiny",
        "--repeats",
        "2",
        "--backend",
        "aot_eager",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    assert benchmark.main() == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["dropped"] == []
    assert [(row["task"], row["row"]) for row in results["training"]] == [
        (row.task, row.name) for row in benchmark.ROWS
    ]
    assert all(row["clips_per_s"] > 0 and row["ms_range"][0] <= row["ms"] for row in results["training"])
    assert len(results["inference"]) == 2 and results["profile"]["kernels"]
