"""Files of --config: numbers where text is meant, all mistakes at once, and text that is not UTF-8; narrow terminals."""

from __future__ import annotations

import io
import sys

import pytest

from svfap.cli.main import main
from svfap.experiments.experiment import read_settings
from svfap.train.config import FinetuneConfig


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*argv])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_number_is_text_where_text_is_meant(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text("fold: 1\nlabel_names: [0, 1.5]\nbase_lr: 1e-3\n")
    with pytest.raises(SystemExit):
        main(["finetune", "--out", "x", "--config", str(file), "--print_config"])
    shown = capsys.readouterr().out
    assert "fold: '1'\n" in shown
    assert "label_names:\n- '0'\n- '1.5'\n" in shown
    assert "base_lr: 0.001\n" in shown
    assert read_settings(FinetuneConfig, file)["fold"] == "1"


def test_all_mistakes_of_a_file_are_told(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text("fold: 1\nepochs: many\nbatch_sise: 3\nprecision: fp64\n")
    error = refused(capsys, "finetune", "--out", "x", "--config", str(file))
    for part in (
        "--epochs: Expected int. Got value: many",
        "'batch_sise' is not expected",
        "--precision",
        "'batch_size'?",
    ):
        assert part in error


@pytest.mark.parametrize("verb", ["finetune", "info"])
def test_a_file_that_is_not_utf8_is_one_line(verb, tmp_path, capsys):
    file = tmp_path / "utf16.yaml"
    file.write_bytes("epochs: 3\n".encode("utf-16"))
    needed = ["--out", "x"] if verb == "finetune" else []
    assert f"{file}: is not UTF-8 text; save it in UTF-8" in refused(capsys, verb, *needed, "--config", str(file))


def test_a_terminal_without_unicode_shows_the_rest(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["info"]) == 0
    sys.stdout.flush()
    shown = sys.stdout.buffer.getvalue().decode("ascii")
    assert "svfap_base" in shown and "16?160?160" in shown
