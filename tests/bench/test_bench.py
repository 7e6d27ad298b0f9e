"""`svfap bench` measures the loop, the forward pass and the loader, keeps its time, and ends with commands that are valid."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import yaml

import svfap.bench.bench as module
from svfap.bench import measure, work
from svfap.bench.advice import Videos, advise
from svfap.bench.bench import bench_machine
from svfap.bench.config import BenchConfig
from svfap.bench.measure import Rate, Row, free_bytes, rate_of
from svfap.bench.report import lines_of, to_text
from svfap.bench.result import Benched
from svfap.bench.work import Size
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.train.loop import TrainingRun

pytestmark = pytest.mark.slow  # measures for seconds what tests of the loop and the loader check

CPU = torch.device("cpu")


def options(command: str, capsys) -> dict:
    """The settings that the parser reads from a command line."""
    verb, *words = shlex.split(command)[1:]
    with pytest.raises(SystemExit) as end:
        main([verb, *words, "--print_config"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    return yaml.safe_load(printed.out)


@pytest.fixture(scope="module")
def done(faces, tmp_path_factory):
    """A whole bench in one precision with batches of 1 and 2. Also the calls of the real step, and the files."""
    out, steps, step, inf = tmp_path_factory.mktemp("bench") / "out", [], TrainingRun._step, math.inf

    def noted(run, micro, *args):
        steps.append(len(micro[0]["clips"]))
        return step(run, micro, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCHES", [1, 2])
        patch.setattr(module, "precisions_of", lambda device: ["fp32"])
        patch.setattr(module, "num_workers", lambda *args: 0)  # of one core
        patch.setattr(measure, "BLOCK_S", 0.0)
        patch.setattr(module, "rate_of", lambda step, clips, device, *time: rate_of(step, clips, device, 0.0, inf))
        patch.setattr(module, "reading_rate", lambda data, workers, *time: work.reading_rate(data, workers, 0.0, inf))
        patch.setattr(module, "joint_rate", lambda run, *time: work.joint_rate(run, 0.0, inf))
        patch.setattr(TrainingRun, "_step", noted)
        settings = dict(preset="svfap_debug", manifest=faces / "train.csv", seconds=10_000, device="cpu", out=out)
        return bench_machine(BenchConfig(**settings)), steps, out


def test_everything_is_measured(done):
    result, steps, _ = done
    measured = {(row.work, row.precision, row.batch) for row in result.rows if row.precision and row.waiting is None}
    assert measured == {(w, "fp32", n) for w in module.STEPS for n in (1, 2)}
    assert {row.work for row in result.rows} == set(module.ORDER) and not result.dropped
    assert {1, 2} == set(steps)
    for row in result.rows:
        assert row.rate.median > 0 and min(row.rate.each) <= row.rate.median <= max(row.rate.each)
        if row.work in ("pretrain", "finetune", "predict"):
            assert row.memory_bytes is None or row.memory_bytes > 50e6  # of a process with PyTorch
        assert (row.waiting is None) != row.work.endswith("with reading")


def test_the_files_have_every_number(done, capsys):
    result, _, out = done
    stored, text = json.loads((out / "bench.json").read_text()), (out / "bench.md").read_text()
    assert [row["rate"]["each"] for row in stored["rows"]] == [list(row.rate.each) for row in result.rows]
    assert stored["dropped"] == [vars(each) for each in result.dropped]
    assert stored["settings"]["preset"] == "svfap_debug" and stored["machine"]["cores"] >= 1
    for row in result.rows:
        assert str(row.rate) in text
    for each in [*result.dropped, *result.notes]:
        assert (each if isinstance(each, str) else each.reason) in text
    for command in result.advice.commands.values():
        assert f"    {command}\n" in text


def test_the_commands_are_valid_and_hold_what_was_chosen(done, capsys):
    result, *_ = done
    for name, chosen in result.advice.training.items():
        settings = options(result.advice.commands[name], capsys)
        assert settings["batch_size"] == chosen.micro_batch * settings["accumulate_steps"] <= 28
        assert settings["num_workers"] == chosen.workers and settings["precision"] == chosen.precision
        assert settings["manifest"].endswith("train.csv")
    assert options(result.advice.commands["predict"], capsys)["batch_size"] in (1, 2)


def test_without_videos_of_ones_own_reading_is_not_measured(tmp_path, monkeypatch):
    quick(monkeypatch)
    result = bench_machine(BenchConfig(preset="svfap_debug", device="cpu"))
    assert {row.work for row in result.rows} == {"pretrain", "finetune", "predict"}
    assert "Reading was not measured" in to_text(result, reads=False)
    assert all("--num_workers" not in command for command in result.advice.commands.values())


def quick(monkeypatch) -> list[tuple[int, float]]:
    """Each step is done once. Returns the clips of each, and the time that it had at most."""
    asked = []

    def once(step, clips, device, seconds, end):
        asked.append((clips, end - time.monotonic()))
        step()
        return Rate((float(clips),)), 0.0

    monkeypatch.setattr(module, "rate_of", once)
    monkeypatch.setattr(module, "BATCHES", [1, 2])
    monkeypatch.setattr(module, "reading_rate", lambda dataset, workers, *time: (Rate((10.0 * workers,)), 0))
    monkeypatch.setattr(module, "joint_rate", lambda run, *time: (Rate((5.0,)), 0.25))
    return asked


def test_videos_without_labels_are_fine_tuned_on_a_synthetic_face(faces, monkeypatch):
    quick(monkeypatch)
    result = bench_machine(BenchConfig(preset="svfap_debug", manifest=faces / "pretrain.csv", device="cpu"))
    assert {row.work for row in result.rows} == {
        *("read for pretrain", "pretrain", "finetune", "predict", "pretrain with reading"),
    }
    (note,) = [note for note in result.notes if note.startswith("finetune: on a synthetic face")]
    assert "label" in note


def test_a_model_that_cannot_be_pre_trained_is_listed(monkeypatch):
    quick(monkeypatch)
    result = bench_machine(BenchConfig(model="movement", device="cpu"))
    assert {row.work for row in result.rows} == {"finetune", "predict"}
    (dropped,) = result.dropped
    assert dropped.what == "pretrain" and "stem='conv' reads hidden pixels" in dropped.reason
    assert "pretrain" not in result.advice.commands
    assert "--init movement" in result.advice.commands["finetune"]
    assert "predict VIDEO --model movement" in result.advice.commands["predict"]


def test_values_and_files_and_devices_that_cannot_be_used(faces, tmp_path, monkeypatch):
    for settings, message in (
        (dict(preset="svfap_huge"), "unknown preset 'svfap_huge'"),
        (dict(seconds=3), "seconds=3: must be at least 10"),
        (dict(device="tpu"), "device=tpu: must be auto"),
        (dict(manifest="a.csv", dataset="b"), "give either"),
        (dict(root="."), "`root` and `split` go with"),
    ):
        with pytest.raises(UserError, match=message):
            BenchConfig(**settings)
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(UserError, match=r"bench\.json: exists"):
        bench_machine(BenchConfig(preset="svfap_debug", out=tmp_path))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda: there is none that training can use; it takes"):
            bench_machine(BenchConfig(preset="svfap_debug", device="cuda"))
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        bench_machine(BenchConfig(preset="svfap_debug", manifest=tmp_path / "none.csv"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        bench_machine(BenchConfig(preset="svfap_debug"))


# measuring ------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes in steps only."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.steps = 100.0, 0
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measure.time, "monotonic", lambda: self.now)

    def step(self, seconds: float):
        self.steps += 1
        self.now += seconds


def test_a_rate_is_that_of_the_step(monkeypatch):
    clock = Clock(monkeypatch)
    rate, step_s = rate_of(lambda: clock.step(0.05), 4, CPU, 1.0, 1000.0)
    assert step_s == pytest.approx(0.05) and rate.each[:3] == pytest.approx((80, 80, 80))
    taken = iter([1.0, 2.0, 4.0])
    rate, step_s = rate_of(lambda: clock.step(next(taken)), 4, CPU, 0.0, 1000.0)
    assert (rate.each, rate.median, step_s, str(rate)) == ((4, 2, 1), 2, 2.0, "2 (1 to 4)")
    before = clock.steps
    rate_of(lambda: clock.step(1.0), 4, CPU, 10.0, 1000.0)
    assert clock.steps - before == 11


def test_after_the_end_a_step_is_measured_once(monkeypatch):
    clock = Clock(monkeypatch)
    rate, _ = rate_of(lambda: clock.step(0.5), 1, CPU, 100.0, clock.now)
    assert str(rate) == "2 (once)" and clock.steps == 1


def sweep(monkeypatch, seconds_of, seconds=100.0, peaks=None, free=None, precisions=("fp32",)):
    """The batches of each precision in the order measured, and the reasons for the others; a step takes `seconds_of(batch)`."""
    clock = Clock(monkeypatch)
    bencher = module._Bench(BenchConfig(seconds=100), CPU, Path(), clock.now)

    def measured(step, clips, device, *limits):
        clock.now += 3 * seconds_of(clips)
        return Rate((clips / seconds_of(clips),)), seconds_of(clips)

    monkeypatch.setattr(module, "rate_of", measured)
    monkeypatch.setattr(module, "peak_bytes", lambda device: peaks[len(bencher.rows)] if peaks else None)
    monkeypatch.setattr(module, "free_bytes", lambda: free)
    monkeypatch.setattr(module, "held_bytes", lambda: 0)

    @contextmanager
    def opened():
        yield lambda batch: lambda: clock.step(seconds_of(batch))

    sweeps = [module._Sweep("pretrain", precision, opened) for precision in precisions]
    bencher._grow(sweeps, module.BATCHES, clock.now + seconds)
    return [row.batch for row in bencher.rows], [each.reason for each in bencher.dropped] + bencher.notes


def test_batches_grow_until_they_gain_no_more(monkeypatch):
    batches, why = sweep(monkeypatch, lambda batch: 0.1 + 0.01 * batch)
    assert batches == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert why == ["pretrain, fp32: no batch above 256, which gains less than 5%"]


def test_each_batch_is_measured_in_all_precisions_before_a_larger_one(monkeypatch):
    batches, why = sweep(monkeypatch, lambda batch: 1.0, seconds=30.0, precisions=("bf16", "fp32"))
    assert batches == [1, 1, 2, 2, 4, 4] and all(module.MORE in each for each in why)


def test_batches_that_have_no_time_or_no_memory_are_listed(monkeypatch):
    batches, (why,) = sweep(monkeypatch, lambda batch: 1.0 + 0.01 * batch, seconds=15.0)
    assert batches == [1, 2] and why.startswith("takes some 8.2 s, and 6.9 s were left; --seconds gives more")
    batches, (why,) = sweep(monkeypatch, lambda batch: 5.0, seconds=4.0)
    assert batches == [] and why.startswith("its first step took 5 s, and 0 s were left")
    peaks = [int(1e9), int(2e9), int(4e9), int(8e9)]
    batches, (why,) = sweep(monkeypatch, lambda batch: 0.1 + 0.01 * batch, peaks=peaks, free=int(9e9))
    assert batches == [1, 2, 4] and why == "takes some 8.0 GB more, and 9.0 GB are free"

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    bencher = module._Bench(BenchConfig(), CPU, Path(), time.monotonic())
    bencher._grow([module._Sweep("pretrain", "fp32", lambda: nullcontext(full))], [1], time.monotonic() + 100)
    assert [each.reason for each in bencher.dropped] == ["does not fit into the GPU's memory"]


def test_free_memory_is_known_on_linux():
    free = free_bytes()
    assert free is None or free > 1e7


# what follows -----------------------------------------------------------------------------------------------------------


def row(work, batch, clips_per_s, precision="bf16", workers=0):
    return Row(work, precision, batch, workers, Rate((clips_per_s,)))


ROWS = [
    *(row("pretrain", batch, rate) for batch, rate in ((1, 10), (2, 18), (4, 19.5), (8, 20))),
    row("pretrain", 8, 12, "fp32"),
    *(row("read for pretrain", 0, 12.0 * n, None, n) for n in (1, 2, 4)),
    row("finetune", 64, 100),
    *(row("read for finetune", 0, 12.0 * n, None, n) for n in (1, 2, 4)),
    row("predict", 16, 50),
]


def videos(count=None, **given):
    given = given or {"manifest": "v.csv"}
    return {name: Videos(given, count) for name in ("pretrain", "finetune")}


def test_the_smallest_batch_that_is_nearly_as_fast_and_the_fewest_workers_that_keep_up():
    found = advise(BenchConfig(manifest="v.csv"), Size("svfap_base", {}), ROWS, (), videos(10**6))
    chosen = found.training["pretrain"]
    assert (chosen.precision, chosen.batch_size, chosen.micro_batch, chosen.accumulate_steps) == ("bf16", 256, 4, 64)
    assert (chosen.workers, chosen.keeps_up) == (2, True)  # 24 of 19.5 clips/s
    chosen = found.training["finetune"]  # 64 does not divide 96
    assert (chosen.batch_size, chosen.micro_batch, chosen.accumulate_steps) == (96, 48, 2)
    assert (chosen.workers, chosen.keeps_up) == (4, False)


def test_precisions_are_compared_at_batches_that_both_have():
    rows = [row("predict", 1, 39), row("predict", 2, 71), row("predict", 1, 62, "fp32")]
    found = advise(BenchConfig(), Size("svfap_base", {}), rows, [("predict", "bf16"), ("predict", "fp32")], videos())
    assert found.commands == {"predict": "svfap predict VIDEO --model MODEL --precision fp32"}
    assert found.unknown[0].startswith("predict: fp32 was measured with batch 1 only, so no batch size follows")
    # One that gains no more before the other's end has its best.
    rows = [row("predict", 1, 39), row("predict", 1, 30, "fp32"), row("predict", 2, 50, "fp32")]
    found = advise(BenchConfig(), Size("svfap_base", {}), rows, [("predict", "fp32")], videos())
    assert found.commands["predict"].endswith("--batch_size 2 --precision fp32")
    gained = "predict: fp32 gained up to batch 2, the last that was measured; larger ones may be faster; --seconds gives more"
    assert found.unknown == (gained,)


def test_what_was_not_measured_is_said_and_not_advised():
    cut = [("pretrain", "bf16"), ("pretrain", "fp32"), ("finetune", "bf16"), ("read for finetune", None)]
    rows = [row("pretrain", 1, 5), row("finetune", 1, 5), row("finetune", 2, 9)]
    found = advise(BenchConfig(), Size("svfap_base", {}), rows, [*cut, ("finetune", "fp32")], videos(23))
    assert set(found.commands) == {"finetune"}
    assert "--precision" not in found.commands["finetune"] and "--num_workers" not in found.commands["finetune"]
    assert "--batch_size 22 --accumulate_steps 11" in found.commands["finetune"]  # of 23 videos
    assert [each.partition("; ")[0] for each in found.unknown] == [
        "pretrain: fp32 was not measured, so no --precision follows",
        "pretrain: bf16 was measured with batch 1 only, so no batch size follows, nor a command",
        "finetune: fp32 was not measured, so no --precision follows",
        "finetune: bf16 gained up to batch 2, the last that was measured",
        "finetune: reading was not measured, so no --num_workers follows",
    ]


def test_after_ctrl_c_the_tables_so_far_are_shown(monkeypatch, capsys, tmp_path):
    calls = []

    def once(step, clips, *limits):
        calls.append(clips)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return Rate((float(clips),)), 0.0

    monkeypatch.setattr(module, "rate_of", once)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path.with_name("inductor")))  # PyTorch keeps its own folder
    assert main(["bench", "--preset", "svfap_debug", "--device", "cpu"]) == 130
    shown = capsys.readouterr()
    assert "Steps and forward passes alone" in shown.out and "interrupted" in shown.out
    assert "was not measured" in shown.out and "--seconds gives more" not in shown.out  # the time was not too short
    assert not list(tmp_path.iterdir())


def test_files_are_refused_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "bench_machine", lambda *args: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    assert main(["bench", "--out", str(tmp_path / "file")]) == 1
    assert f"--out={tmp_path / 'file'}: cannot write there" in capsys.readouterr().err
    (tmp_path / "bench.md").write_text("old")
    assert main(["bench", "--out", str(tmp_path)]) == 1
    assert "bench.md: exists" in capsys.readouterr().err


def test_videos_that_cannot_be_read_are_named_before_anything_is_measured(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "b.mp4").write_bytes(b"")
    (tmp_path / "v.csv").write_text("path\na.mp4\nb.mp4\n")
    with pytest.raises(UserError, match=r"none of its first 2 videos can be read; the first: .*a\.mp4: "):
        bench_machine(BenchConfig(preset="svfap_debug", manifest=tmp_path / "v.csv"))


def test_commands_of_a_model_of_another_size_and_of_a_dataset(capsys):
    config = BenchConfig(dataset="prepared/dfew", model="runs/x", split="train")
    size = Size("svfap_tiny", {"stage_depths": (2, 2), "img_size": 96, "standardize_clips": True})
    found = advise(config, size, ROWS, (), videos(100, dataset="prepared/dfew", split="train"))
    settings = options(found.commands["pretrain"], capsys)
    assert settings["model"] == {"stage_depths": [2, 2], "img_size": 96, "standardize_clips": True}
    assert (settings["preset"], settings["dataset"], settings["split"]) == ("svfap_tiny", "prepared/dfew", "train")
    assert settings["batch_size"] == 100  # as many as there are videos
    assert "--model runs/x --batch_size 16 --precision bf16" in found.commands["predict"]


def test_a_precision_that_may_as_well_be_the_slower_one_is_named():
    rows = [
        Row("predict", p, 1, 0, Rate(each)) for p, each in (("fp32", (8.0, 9.0, 10.0)), ("bf16", (9.5, 11.0, 12.0)))
    ]
    found = advise(BenchConfig(), Size("svfap_base", {}), rows, (), videos())
    assert found.unknown == (
        "predict: whether bf16 is faster than fp32: their ranges overlap, and the command takes bf16 for its median. "
        "Measure longer (--seconds), on an idle machine",
    )
    assert "--precision bf16" in found.commands["predict"]
    rows[1] = Row("predict", "bf16", 1, 0, Rate((10.5, 11.0, 12.0)))
    assert advise(BenchConfig(), Size("svfap_base", {}), rows, (), videos()).unknown == ()


def test_batches_that_lie_ready_make_no_reader_fast(faces, monkeypatch):
    """Three of four batches come at once: the rate is that of the whole time, in each part."""
    clock, ticks = [0.0], itertools.cycle((0.4, 0.0, 0.0, 0.0))

    def batches(self, *args, **order):
        for _ in range(100):
            clock[0] += next(ticks)
            yield {"clips": [0] * 10, "unreadable": []}

    monkeypatch.setattr(work.BatchLoader, "batches", batches)
    monkeypatch.setattr(work.time, "monotonic", lambda: clock[0])
    tasks = work.make_tasks(BenchConfig(manifest=faces / "train.csv"), Size("svfap_debug", {}), None)
    rate, _ = work.reading_rate(tasks["finetune"].task.dataset, 0, 4.0, math.inf)
    assert min(rate.each) > 80 and max(rate.each) < 120


def test_who_waits_for_whom_is_said(monkeypatch):
    advice = advise(BenchConfig(manifest="v.csv"), Size("svfap_base", {}), ROWS, (), videos())
    joint = Row("pretrain with reading", "bf16", 4, 2, Rate((17.0,)), None, 0.2)
    lines = lines_of(Benched({}, (*ROWS, joint), (), (), advice, 1.0), reads=True)["Who waits for whom"]
    assert lines[0] == (
        "pretrain: the steps take 19.5 clips/s, and 2 workers read 24: the reader alone is fast enough. Together, on the same "
        "cores: 17 clips/s, 20% of the time waiting; they take the cores from each other"
    )
    assert (
        "finetune: the steps take 100 clips/s, and not more than 48 (4 workers read them): training waits" in lines[1]
    )


def test_the_command_shows_all_and_its_lines_can_be_copied(monkeypatch, capsys, tmp_path):
    quick(monkeypatch)
    assert main(["bench", "--preset", "svfap_debug", "--device", "cpu", "--out", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr()
    assert "    svfap pretrain --preset svfap_debug --batch_size 256 --accumulate_steps 128 --precision" in shown.out
    assert any(line.endswith("--out runs/pretrain") and "svfap pretrain" in line for line in shown.out.splitlines())
    assert "pretrain, fp32, batch 1: 1 (once) clips/s" in shown.err
    assert main(["bench", "--manifest", "none.csv"]) == 1
    assert "--manifest=none.csv: no such file" in capsys.readouterr().err


def test_the_loader_is_measured_and_says_what_it_could_not_read(faces):
    tasks = work.make_tasks(BenchConfig(manifest=faces / "train.csv"), Size("svfap_debug", {}), None)
    rate, unreadable = work.reading_rate(tasks["finetune"].task.dataset, 0, 0.0, math.inf)
    assert unreadable == 0 and rate.median > 0 and len(rate.each) == 3
    assert work.reading_rate(tasks["finetune"].task.dataset, 0, 0.0, 0.0) is None
