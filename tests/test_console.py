"""Progress as a bar and as lines of a log; messages that name settings as their reader writes them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from svfap import console
from svfap.cli.main import main

NOTE = "epoch 12, loss 0.1234, 3.21/s"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_shows_its_numbers_whole(width, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=width, color_system=None))
    with console.progress_bar() as bar:
        one = bar.add_task("training", total=24600, completed=12345, note=NOTE)
        bar.update(one, note=NOTE)
    line = [line for line in screen.getvalue().splitlines() if "24600" in line][-1]
    assert " 12345/24600 0:00:00 left " in line
    assert "━" in line
    assert (NOTE in line) == (width >= 80)
    assert "training" in line or width < 80


def test_without_a_total_the_bar_shows_what_is_known(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=80, color_system=None))
    with console.progress_bar() as bar:
        one = bar.add_task("Own data", total=None, note="")
        bar.update(one, advance=10, note="test")
    line = [line for line in screen.getvalue().splitlines() if "Own data" in line][-1]
    assert line.split("━")[-1].split() == ["10", "0:00:00", "test"]


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    log, now = io.StringIO(), [100.0]
    monkeypatch.setattr(console, "console", Console(file=log, width=80))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar() as bar:
        one = bar.add_task("training", total=100, completed=40, note="")
        for step in range(41, 61):
            now[0] += 10
            bar.update(one, completed=step, note=f"loss 0.{step}")
    lines = log.getvalue().splitlines()
    # At 130 s, 3 of 60 steps took 30 s, so 57 take 570 s.
    assert lines[0] == "training: 43 of 100, loss 0.43, 0:09:30 left"
    assert [line.split(",")[0] for line in lines[:6]] == [f"training: {n} of 100" for n in (43, 46, 49, 52, 55, 58)]
    assert len(lines) == 7, "and the last state"


def test_the_time_that_is_left_counts_from_the_start_of_a_task_that_waited(monkeypatch):
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(console, "console", Console(file=log, width=80))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar() as bar:
        one = bar.add_task("second run", total=60, start=False, note="")
        now[0] = 1000.0
        bar.update(one, completed=20)  # of an earlier session; nothing to say before the start
        bar.start_task(one)
        now[0] = 1050.0
        bar.update(one, completed=30)
    # 10 of 40 in 50 s, so 30 take 150 s.
    assert log.getvalue().splitlines()[0].startswith("second run: 30 of 60, 0:02:30 left")


def test_a_terminal_gets_no_lines(monkeypatch):
    screen, now = io.StringIO(), [100.0]
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=80))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar() as bar:
        one = bar.add_task("training", total=100, note="")
        now[0] += 100
        bar.update(one, completed=50)
    assert "50 of 100" not in screen.getvalue()


MESSAGES = {
    "margin=0.1, while the model's training had 0.25": "--margin=0.1, while the model's training had 0.25",
    "warning: faces=none: whole pictures": "warning: --faces=none: whole pictures",
    "no videos (margin=0): give `faces` or `other`": "no videos (--margin=0): give --faces or `other`",
    "see --margin (in Python: margin=0) or --margin=1": "see --margin (in Python: margin=0) or --margin=1",
    "margin=2 (in Python: margin=…, faces=True) margin=1": "--margin=2 (in Python: margin=…, faces=True) --margin=1",
    "/data/margin=1/a.mp4, 'margin=1', my_margin=1, margins=1": "/data/margin=1/a.mp4, 'margin=1', my_margin=1, margins=1",
    "faces: 3 of manifests": "faces: 3 of manifests",
}


@pytest.mark.parametrize(("message", "typed"), MESSAGES.items())
def test_messages_name_settings_as_they_are_typed(message, typed, capsys):
    console.say(message)
    with console.naming_options({"margin", "faces"}):
        console.say(message)
    console.say(message)
    assert capsys.readouterr().err.splitlines() == [message, typed, message]
    with console.naming_options({"margin"}):
        assert console.as_typed("margin: is wrong", field_first=True) == "--margin: is wrong"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "--model", "MODEL"],
            "error: give either --manifest (a CSV of test videos) or --dataset (a folder",
        ),
        (["pool"], "error: give either the folder of a run, or --models with --dataset and --out"),
        (
            ["prepare", "folder", "--root", "MODEL", "--out", "o", "--label_column", "x"],
            "error: --label_column: names a column",
        ),
        (
            ["predict", "a.mp4", "--model", "MODEL", "--out", "null", "--resume"],
            "error: --resume=True: without --out there",
        ),
    ],
)
def test_errors_of_the_command_name_its_options(arguments, message, tmp_path, capsys):
    assert main([str(tmp_path) if word == "MODEL" else word for word in arguments]) == 1
    assert message in capsys.readouterr().err
    assert console.as_typed("give `out`") == "give `out`"


def test_in_a_notebook_tables_are_text(capsys, monkeypatch):
    """Otherwise rich would show them through IPython, and progress through ipywidgets."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    console.show("a table")
    assert capsys.readouterr().out == "a table\n"
    assert not console.console.is_jupyter
