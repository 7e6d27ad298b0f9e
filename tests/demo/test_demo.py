"""The demo: its steps are valid commands, run two at a time in their order, and continue; all of it runs, in miniature."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import svfap
from svfap.cli.main import main
from svfap.demo import demo as demo_module
from svfap.demo.config import DemoConfig
from svfap.demo.demo import Step, beside, run_demo, run_steps, steps
from svfap.errors import Interrupted, UserError


def fake(folder: Path, name: str, needs: tuple[str, ...] = (), code: str = "") -> Step:
    """A step that notes when it starts and ends."""
    script = (
        f"import pathlib, sys, time\nfolder = pathlib.Path({str(folder)!r})\n"
        f"note = lambda what: (folder / 'log').open('a').write(what + ' {name}\\n')\n"
        f"note('start'); time.sleep(0.3)\n{code}\nnote('end')\n(folder / {name!r}).touch()\n"
    )
    return Step(folder / name, ("-c", script), tuple(folder / each for each in needs))


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Steps are Python scripts; the lines that they have noted."""
    monkeypatch.setattr(demo_module, "COMMAND", (sys.executable,))
    return lambda: (tmp_path / "log").read_text().splitlines()


def test_two_steps_run_at_a_time_each_after_those_that_it_needs_and_none_again(tmp_path, log):
    (tmp_path / "done").touch()
    planned = [fake(tmp_path, "done"), fake(tmp_path, "a", ("done",)), fake(tmp_path, "b", ("a",))]
    planned += [fake(tmp_path, "c"), fake(tmp_path, "d")]
    run_steps(planned)
    lines = log()
    assert set(lines[:2]) == {"start a", "start c"}
    assert lines.index("end a") < lines.index("start b") and len(lines) == 8
    running = most = 0
    for line in lines:
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    assert most == 2
    run_steps(planned)
    assert log() == lines


@pytest.mark.parametrize(
    ("code", "error"), [("sys.exit(1)", UserError), ("sys.exit(143)", Interrupted)], ids=["fails", "is interrupted"]
)
def test_if_one_fails_the_others_are_stopped(tmp_path, log, code, error):
    began = time.monotonic()
    with pytest.raises(error):
        run_steps(
            [fake(tmp_path, "a", code=code), fake(tmp_path, "b", code="time.sleep(60)"), fake(tmp_path, "c", ("a",))]
        )
    assert time.monotonic() - began < 20 and "start c" not in log() and not (tmp_path / "b").exists()


def test_a_step_runs_beside_a_block(tmp_path, log):
    for _ in range(2):  # the second time nothing is left to do
        with beside(fake(tmp_path, "a")):
            assert not (tmp_path / "log").exists() or log()[-1] == "end a", "it does not wait for the step"
        assert log() == ["start a", "end a"]
    with pytest.raises(UserError, match="failed"), beside(fake(tmp_path, "b", code="sys.exit(1)")):
        pass
    with pytest.raises(ZeroDivisionError), beside(fake(tmp_path, "c", code="time.sleep(60)")):
        1 / 0  # noqa: B018


def in_this_process(planned: list[Step], quick: dict[str, list[str]]) -> None:
    """Run steps in their order, with further words for each verb."""
    for step in planned:
        if not step.makes.exists():
            assert all(need.exists() for need in step.needs), step
            assert main([*step.words, *quick.get(step.words[0], [])]) == 0, step
            assert step.makes.exists(), step


QUICK = {
    "synth": ["--num_workers", "0", "--num_pretrain", "14", "--num_train", "28", "--num_test", "14", "--size_px", "32"],
    "pretrain": ["--epochs", "1", "--warmup_epochs", "0", "--batch_size", "14"],
    "finetune": ["--epochs", "1", "--warmup_epochs", "0"],
    "report": ["--maps", "false", "--videos", "1"],
}


@pytest.mark.slow
def test_the_demo_runs_in_its_folder_and_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "run_steps", lambda planned: in_this_process(planned, QUICK))
    assert main(["demo", "--out", "shown", "--seed", "5"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for row in ("from scratch", "pre-trained for longer, fine-tuned", "untrained encoder"):
        assert row in printed
    table = pd.read_csv("shown/table.csv")
    minutes, longer = "pre-trained for minutes", "pre-trained for longer"
    rows = ["chance", "12 × 12 grey pixels", "untrained encoder", minutes, longer, "from scratch", minutes, longer]
    assert [name.split(",")[0] for name in table.iloc[:, 0]] == rows
    assert "<title>SVFAP demo on synthetic faces</title>" in Path("shown/report.html").read_text()
    assert json.loads(Path("shown/data/synth.json").read_text())["seed"] == 5
    assert "seed: 5" in Path("shown/longer/config.yaml").read_text()
    times = {file: file.stat().st_mtime_ns for file in Path("shown").rglob("metrics.json")}
    monkeypatch.setattr(demo_module, "run_steps", lambda planned: in_this_process(planned, {}))
    monkeypatch.setattr("svfap.demo.table.demo_table", lambda folder: "the table")
    assert svfap.run_demo(DemoConfig(out="shown", seed=5)).table == "the table"
    assert times == {file: file.stat().st_mtime_ns for file in Path("shown").rglob("metrics.json")}
    assert main(["demo", "--out", "shown"]) == 1
    assert "shown: was made with other settings (seed: 5 then, 3 now); choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("number", range(len(steps(DemoConfig()))))
def test_every_step_is_a_command(number, capsys):
    step = steps(DemoConfig())[number]
    with pytest.raises(SystemExit) as end:
        main([*step.words, "--print_config"])
    assert end.value.code == 0, capsys.readouterr().err


def test_seed_and_out_are_those_of_every_step(tmp_path):
    planned = steps(DemoConfig(out=tmp_path / "a", seed=5))
    assert all(step.makes.is_relative_to(tmp_path / "a") for step in planned)
    seeded = [step for step in planned if step.words[0] in ("synth", "pretrain", "finetune")]
    assert len(seeded) == 5
    assert all(step.words[step.words.index("--seed") + 1] == "5" for step in seeded)


def test_a_folder_of_another_seed_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "synth.json").write_text('{"seed": 5}')
    with pytest.raises(UserError, match=r"made with other settings \(seed: 5 then, 3 now\); choose another `out`"):
        run_demo(DemoConfig(out=tmp_path))


def test_a_file_in_its_place_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="is a file; give the name of a folder"):
        run_demo(DemoConfig(out=tmp_path / "a"))
