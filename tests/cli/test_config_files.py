"""Files of --config, errors that name options as they are typed, and terminals that are not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from svfap.cli.main import main


@pytest.fixture
def fails(tmp_path, capsys):
    """The one line of error for the content of a file of --config."""

    def run(content: str | bytes, verb: str = "finetune", *words: str) -> str:
        file = tmp_path / "settings.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            status = main([verb, *words, "--config", str(file)])
        except SystemExit as stop:
            status = stop.code
        assert status in (1, 2)
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and error.startswith(f"svfap {verb}: error: ")
        return error.removeprefix(f"svfap {verb}: error: ").replace(f"{file}: ", "FILE: ")

    return run


def test_all_errors_of_a_file_are_told_at_once(fails):
    text = (
        "bach_size: 4\nbase_lr: much\nepochs: x\nprecision: fp8\nbetas: [1]\nlabel_names: 3\nby_group: maybe\nseed: 3\n"
    )
    assert fails(text).removeprefix("FILE: ").split("; ") == [
        "bach_size is no setting. Did you mean 'batch_size'?",
        "--base_lr: Expected a number. Got value: much",
        "--epochs: Expected a whole number. Got value: x",
        "--precision: Expected one of auto, fp32, bf16, fp16. Got value: fp8",
        "--betas: Expected 2 values. Got value: [1]",
        "--label_names: Expected a list of texts or null. Got value: 3",
        "--by_group: Expected true or false or null. Got value: maybe",
    ]


def test_other_verbs_tell_them_as_well(fails):
    assert fails("hop_s: [1]\nresme: true\n", "predict", "a.mp4", "--model", "m") == (
        "FILE: --hop_s: Expected a number, auto or null. Got value: [1]; resme is no setting. Did you mean 'resume'?"
    )


def test_values_out_of_range_are_told_with_unknown_names(fails):
    text = "hop_s: -1\nfoo: 4\nmin_face_px: -3\nmodel_size: 3\nhop: 25\nout: a.xls\nresume: true\n"
    problems = fails(text, "predict", "a.mp4").removeprefix("FILE: ")
    assert problems.startswith(
        "hop is no setting. Did you mean 'hop_s'?; foo, model_size are no settings; svfap predict --help lists them all; "
    )
    assert set(problems.split("; ")[3:]) == {
        "--hop_s=-1.0: must be more than 0",
        "--min_face_px=-3: must be at least 0",
        "--out=a.xls: the suffix must be one of .csv, .jsonl, .json, .parquet, .xlsx",
    }
    assert fails("", "predict", "a.mp4", "--model", "m", "--model_size", "3") == (
        "unrecognized arguments: --model_size 3; svfap predict --help lists the options"
    )
    assert fails("", "pretrain", "--manifest", "m.csv", "--model_size", "3") == (
        "unrecognized arguments: --model_size 3; svfap pretrain --help lists the options"
    )


def test_numbers_are_text_where_the_setting_is_text(tmp_path, fails):
    (tmp_path / "a.csv").write_text("path,label\na.mp4,1\n")
    words = ("--manifest", str(tmp_path / "a.csv"), "--out", str(tmp_path / "out"))
    assert fails("fold: 1\nlabel_names: [1, 2]\n", "finetune", *words).startswith(
        "--fold=1: folds come with a dataset; give --dataset in place of --manifest"
    )


@pytest.mark.parametrize("verb", ["finetune", "pretrain", "predict", "extract", "crop", "pool", "convert"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_files_that_are_not_utf8(verb, encoding, fails):
    assert fails("# é\nseed: 3\n".encode(encoding), verb) == "FILE: is not UTF-8 text; save it as UTF-8"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1,\n", "cannot be read as YAML ("), ("- 1\n", "holds a list, not names with values"), ("a: b: c\n", "cannot be read")],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["finetune", "predict"])
def test_files_that_are_no_settings(verb, content, message, fails):
    assert message in fails(content, verb)


def test_a_missing_file_and_an_empty_one(tmp_path, capsys, fails):
    with pytest.raises(SystemExit):
        main(["predict", "a.mp4", "--model", "m", "--config", str(tmp_path / "none.yaml")])
    assert f"--config: File does not exist: '{tmp_path / 'none.yaml'}'" in capsys.readouterr().err
    assert fails("", "predict", str(tmp_path / "a.mp4"), "--model", str(tmp_path)).endswith(
        "a.mp4: no such file or folder"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "a.mp4", "--model", "m", "--batch_size", "0"], "--batch_size=0: must be at least 1"),
        (["predict", "a.mp4", "--model", "m", "--out", "a.xls"], "--out=a.xls: the suffix must be one of .csv"),
        (
            ["predict", "a.mp4", "--model", "m", "--hop_s", "x"],
            "--hop_s: Expected a number, auto or null. Got value: x",
        ),
        (
            ["finetune", "--task", "regresion", "--out", "o"],
            "--task: Expected one of classification, regression or null",
        ),
        (["prepare", "dfew", "--root", "none", "--out", "o"], "--root=none: is not a folder"),
        (["convert", "none.pth", "o"], "error: none.pth: no such file"),
        (["convert", "none.pth", os.fsdecode(b"caf\xe9")], "error: OUT: the name is not valid UTF-8; give another"),
        (
            ["predict", "a.mp4", "--model", "m", "--out", os.fsdecode(b"\xe9.csv")],
            "--out: the name is not valid UTF-8;",
        ),
        (["synth", "/dev/null"], "error: out=/dev/null: cannot write there"),
    ],
)
def test_options_are_named_as_they_are_typed(argv, message, capsys):
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_terminal_that_is_not_utf8_gets_question_marks():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "svfap"]
    done = subprocess.run([*command, "info", "svfap_debug"], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stderr == b""
    assert b"16?32?32" in done.stdout and b"svfap_debug" in done.stdout
    done = subprocess.run([*command, "convert", str(Path("größe.pth")), "out"], capture_output=True, env=environment)
    assert done.returncode == 1 and b"?e.pth: no such file" in done.stderr


@pytest.mark.parametrize("name", ["defaults", "include", "extends"])
def test_a_file_includes_no_other_and_several_do(name, fails):
    assert fails(f"{name}: [base.yaml]\nseed: 3\n") == (
        f"FILE: {name} is no setting, as a file includes no other; give several files, as --config BASE.yaml --config "
        "OWN.yaml, of which a later one overrides an earlier one"
    )


def test_several_files_after_one_option_are_told_how(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("epochs: 1\n")
    with pytest.raises(SystemExit):
        main(["finetune", "--config", str(tmp_path / "a.yaml"), "own.yaml", "--manifest", "m.csv", "--out", "o"])
    told = "unrecognized arguments: own.yaml; give several files, as --config BASE.yaml --config OWN.yaml, of which"
    assert told in capsys.readouterr().err


def printed(capsys, *words: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    assert stop.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", ["dfew", "voxceleb2"])
def test_a_file_of_ones_own_overrides_a_recipe_and_flags_override_both(recipe, tmp_path, capsys):
    verb = "pretrain" if recipe == "voxceleb2" else "finetune"
    own = tmp_path / "own.yaml"
    own.write_text("epochs: 7\nseed: 5\ndataset: [a:2, b:1]\n")
    files = ("--config", recipe, "--config", str(own))
    alone, found = printed(capsys, verb, *files[:2]), printed(capsys, verb, *files, "--seed", "6")
    changed = {"epochs": 7, "seed": 6, "dataset": ["a:2", "b:1"]}
    assert found == {**alone, **changed} and alone["epochs"] != 7


def test_printed_settings_of_several_manifests_are_those_that_are_read(tmp_path, capsys):
    words = ("finetune", "--out", "o", "--manifest", "a.csv:2", "b.csv:1", "--val_manifest", "c.csv")
    found = printed(capsys, *words)
    assert (found["manifest"], found["val_manifest"]) == (["a.csv:2", "b.csv:1"], "c.csv")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(found))
    assert printed(capsys, "finetune", "--config", str(tmp_path / "s.yaml")) == found
    assert (
        printed(capsys, "finetune", "--config", str(tmp_path / "s.yaml"), "--manifest", "d.csv")["manifest"] == "d.csv"
    )


def test_lists_are_given_whole(capsys):
    assert printed(capsys, "finetune", "--out", "o", "--dimensions", "v", "--manifest", "d.csv")["dimensions"] == ["v"]
    assert printed(capsys, "finetune", "--out", "o", "--dimensions", "v", "a", "--manifest", "d")["dimensions"] == [
        "v",
        "a",
    ]
    with pytest.raises(SystemExit):
        main(["finetune", "--out", "o", "--manifest", "a.csv", "--manifest+", "b.csv"])
    assert "unrecognized arguments: --manifest+ b.csv" in capsys.readouterr().err
