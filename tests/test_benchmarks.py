"""The benchmarks start, and the faults that one of them reproduces have the effect that it describes."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path

import pytest

from svfap.model.presets import model_config

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FOLDERS = (BENCHMARKS, BENCHMARKS / "faults")
SHARED = {"common", "plain", "workbench", "gpu_tables"}
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


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The script, and a function that runs it with arguments: exit status, gpu.json, gpu.md."""
    benchmark = importlib.import_module("gpu")

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["gpu.py", "--device", "cpu", "--size", "tiny", "--out", str(tmp_path), *arguments]
        )
        status = benchmark.main()
        return status, json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()

    return benchmark, run


@pytest.fixture
def quick_gpu(gpu, monkeypatch):
    """The same with work that takes no time: exact in every precision, and each row has the same figures."""
    import torch

    benchmark, run = gpu
    exact = {name: torch.ones(3) for name in ("output", "gradient", "learning")}

    def measure(row, *_):
        figures = {"ms": 1.0, "ms_range": [1.0, 1.0], "clips_per_s": 10.0, "share_of_matrix_rate": 0.1}
        memory = {"peak_gb": None, "waits_per_step": None}
        return {"task": row.task, "row": row.name, "batch": 1} | figures | memory

    monkeypatch.setattr(benchmark, "observe", lambda *_: exact)
    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(
        benchmark, "measure_inference", lambda *_: {"row": "", "batch": 1, "clips_per_s": 1.0, "range": [1.0, 1.0]}
    )
    monkeypatch.setattr(benchmark, "profile_steps", lambda *_: {})
    monkeypatch.setattr(benchmark, "matrix_rate", lambda *_, repeats: 1e9)
    monkeypatch.setattr(benchmark, "free", lambda: None)
    return benchmark, run


def test_the_gpu_benchmark_ends_with_an_error_if_a_precision_is_off(quick_gpu, monkeypatch, capsys):
    benchmark, run = quick_gpu
    exact = benchmark.observe()
    assert run()[0] == 0
    monkeypatch.setattr(
        benchmark,
        "observe",
        lambda task, precision, *_: exact | ({"output": exact["output"] * 2} if precision == "bf16" else {}),
    )
    status, results, text = run()
    assert status == 1 and results["failed"] == results["dropped"] == []
    assert [row["fits"] for row in results["correctness"]] == [False, True, True, True, True, True] * 2
    reason = "- fine-tuning, bf16, output: the error 1.0e+00 is not within its limit 3e-02"
    assert reason in text and reason in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "observe", lambda *_: {name: each * float("nan") for name, each in exact.items()})
    assert run()[0] == 1


def test_a_row_of_the_gpu_benchmark_that_fails_does_not_stop_the_others(quick_gpu, monkeypatch):
    benchmark, run = quick_gpu
    measure = benchmark.measure

    def fail_compiled(row, *arguments):
        if row.compiled:
            raise ValueError("backend='b' raised:\nno C compiler\nmore")
        return measure(row, *arguments)

    monkeypatch.setattr(benchmark, "measure", fail_compiled)
    status, results, text = run()
    assert status == 1
    assert [row["row"] for row in results["training"]] == [row.name for row in benchmark.EAGER]
    assert [row["name"] for row in results["failed"]] == [f"{row.task}: {row.name}" for row in benchmark.COMPILED]
    assert "fail_compiled" in results["failed"][0]["traceback"] and len(results["inference"]) == 2
    assert "- fine-tuning: bf16, compiled: ValueError: backend='b' raised: no C compiler\n" in text


def test_the_gpu_benchmark_writes_what_it_has_when_it_is_interrupted(quick_gpu, monkeypatch):
    benchmark, run = quick_gpu

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "profile_steps", interrupt)
    status, results, text = run()
    assert status == 130 and len(results["training"]) == len(benchmark.EAGER) and not results["failed"]
    assert "Left out, after the interruption: profile; inference: bf16; fine-tuning: bf16, compiled;" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--batch", "0", "4"], "argument --batch: 0: must be at least 1"),
        (["--repeats", "0"], "argument --repeats: 0: must be at least 1"),
        (["--device", "tpu"], "error: device=tpu: "),
    ],
)
def test_the_gpu_benchmark_refuses_what_cannot_be_measured(wrong, said, gpu, capsys):
    with pytest.raises(SystemExit) as refused:
        gpu[1](*wrong)
    assert refused.value.code == 2 and said in capsys.readouterr().err


def test_the_time_of_the_gpu_benchmark_is_bounded(quick_gpu, monkeypatch):
    benchmark, run = quick_gpu
    status, results, _ = run("--seconds", "0")
    assert status == 1 and len(results["dropped"]) == 2 + 1 + 10 + 1 + 2  # correctness is not checked either
    assert not results["correctness"] and "matrix rate" in results["dropped"]

    ended, hanging = [], threading.Event()

    def end(status):
        ended.append(status)
        hanging.set()

    def hang():
        hanging.wait(30)
        raise SystemExit  # what the true os._exit is replaced by

    monkeypatch.setattr(benchmark.os, "_exit", end)
    results = {"failed": [], "training": [], "machine": [], "correctness": [], "inference": [], "profile": {}}
    results |= {"dropped": [], "interrupted": False}
    work = [("quick", "eager", lambda: None), ("slow", "eager", hang), ("last", "eager", int)]
    budget = benchmark.Budget(seconds=0.3)
    budget.expected["eager"] = 0.0
    with pytest.raises(SystemExit):
        benchmark.Run(results, budget, None)(work)
    assert ended == [1] and results["dropped"] == ["last"]
    (failed,) = results["failed"]
    assert failed["name"] == "slow" and "hanging.wait(30)" in failed["traceback"]
    assert failed["error"] == "not done when the 0.3 seconds were used up"


def test_the_gpu_benchmark_compares_each_row_with_the_reference():
    benchmark = importlib.import_module("gpu_tables")
    reference = {
        "task": "fine-tuning",
        "row": "fp16, waits",
        "clips_per_s": 10,
        "share_of_matrix_rate": 0.1,
        "peak_gb": 20,
    }
    fast = {**reference, "row": "bf16, compiled", "clips_per_s": 30, "share_of_matrix_rate": 0.6, "peak_gb": 15}
    small = {**reference, "row": "bf16, compiled, checkpointed", "clips_per_s": 20, "peak_gb": 10}
    both = {**fast, "row": "bf16", "peak_gb": 12}
    plain = {**reference, "row": "plain, fp16, waits", "clips_per_s": 5, "peak_gb": 50}
    # Speed and memory are never those of different rows.
    found = benchmark.compare([reference, fast, small, plain])
    assert [(r["row"], r["speed"], r["share_of_matrix_rate"], r["memory"], r["met"]) for r in found] == [
        ("bf16, compiled", 3.0, 0.6, 0.75, False),
        ("bf16, compiled, checkpointed", 2.0, 0.1, 0.5, False),
    ]
    assert [(r["speed_of_plain"], r["memory_of_plain"]) for r in found] == [(6.0, 0.3), (4.0, 0.2)]
    assert [r["met"] for r in benchmark.compare([reference, both])] == [True]
    unmeasured = [{**row, "peak_gb": None} for row in (reference, both)]
    assert [(r["memory"], r["met"]) for r in benchmark.compare(unmeasured)] == [(None, False)]
    assert benchmark.compare([fast, small]) == []


def test_the_gpu_benchmark_tells_kernels_copies_and_idle_time_apart():
    benchmark = importlib.import_module("gpu")
    events = [
        ("Memcpy HtoD (Pinned -> Device)", 10.0, 40.0),  # alone for 10, then beside a kernel
        ("gemm", 20.0, 50.0),
        ("gelu", 45.0, 60.0),
        ("Memset (Device)", 70.0, 80.0),
        ("gemm", 90.0, 110.0),
    ]
    assert benchmark.shares(events) == pytest.approx({"kernel": 0.6, "copy": 0.2, "idle": 0.2})


@pytest.mark.parametrize("task", ["fine-tuning", "pre-training"])
def test_a_step_of_the_gpu_benchmark_trains_on_augmented_clips(gpu, task):
    import torch

    benchmark, _ = gpu
    training = benchmark.Training(benchmark.Row(task, "fp32"), benchmark.SIZES["tiny"], torch.device("cpu"), 3, "")
    training.step()
    (loss,) = training.read()
    assert 0 < loss < 10


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_row(gpu):
    benchmark, run = gpu
    status, results, _ = run("--repeats", "2")
    assert status == 0 and results["dropped"] == results["failed"] == []
    assert [(row["task"], row["row"]) for row in results["training"]] == [
        (row.task, row.name) for row in (*benchmark.EAGER, *benchmark.COMPILED)
    ]
    assert all(row["clips_per_s"] > 0 and row["ms_range"][0] <= row["ms"] for row in results["training"])
    assert len(results["inference"]) == 2 and results["profile"]["kernels"]
    assert not any("Optimizer.step" in kernel["name"] for kernel in results["profile"]["kernels"])


def test_figures_of_learning_are_not_replaced_by_empty_ones(tmp_path, monkeypatch, capsys):
    figures = importlib.import_module("learning_figures")
    pictures = tmp_path / "pictures"
    monkeypatch.setattr(sys, "argv", ["learning_figures.py", "--out", str(tmp_path), "--pictures", str(pictures)])
    with pytest.raises(SystemExit) as end:
        figures.main()
    assert f"{tmp_path}: no finished runs" in str(end.value.code) and not pictures.exists()

    done = {
        "name": "untrained",
        "seed": 1,
        "scores": {"linear, last": 30.0, "linear, tokens": 70.0, "linear, pixels": 71.0},
    }
    (tmp_path / "untrained-1.json").write_text(json.dumps(done))  # of another seed than the encoders that are looked at
    figures.main()
    assert [file.name for file in pictures.iterdir()] == ["learning_length.png"]


def test_the_figure_of_spectra_cuts_no_curve():
    import numpy as np

    figures = importlib.import_module("learning_figures")
    shares = np.geomspace(0.9, 1e-9, 20)
    (panel,) = figures.spectrum_figure({"a": shares, "b": shares / 10}).axes
    low, high = panel.get_ylim()
    assert low < 1e-10 and high == 1
