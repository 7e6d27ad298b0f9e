"""`svfap compare`: the same people on both sides, what holds and what may be chance, and runs that cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from svfap.cli.main import main
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.evaluation.compare import compare_runs, mcnemar_p, parse_rows, verdict
from svfap.evaluation.confidence import bootstrap_p, interval, least_p, subject_scores
from svfap.evaluation.config import CompareConfig, PoolConfig
from svfap.evaluation.metrics import classification_metrics
from svfap.evaluation.pool import pool, write_folds_file
from svfap.evaluation.predictions import predictions_table, write_csv
from svfap.reports.runs import read_run

NAMES = ["x", "y", "z"]
NUM, PEOPLE = 240, 40
LABELS = np.random.default_rng(0).integers(0, 3, NUM)
SUBJECTS = [f"p{n % PEOPLE:02d}" for n in range(NUM)]


def outputs(rate: float, seed: int = 0) -> np.ndarray:
    """Outputs that are right for about `rate` of the videos."""
    rng = np.random.default_rng(seed)
    wrong = (LABELS + rng.integers(1, 3, NUM)) % 3
    return np.eye(3)[np.where(rng.random(NUM) < rate, LABELS, wrong)] * 0.7 + 0.1


def run(
    folder: Path,
    values: np.ndarray,
    rows=slice(None),
    labels=LABELS,
    names=NAMES,
    unread: int = 0,
    settings=None,
    **more,
) -> Path:
    """The folder of a run with an evaluation."""
    paths = [f"v{n:03d}.mp4" for n in range(NUM)][rows]
    columns = {"subject": SUBJECTS[rows], **more}
    table = predictions_table(paths, values[rows], names, labels[rows], more=columns)
    (folder / "evaluation").mkdir(parents=True)
    write_csv(folder / "evaluation" / "predictions.csv", table)
    metrics = {"num_expected": len(paths) + unread, "num_evaluated": len(paths), "settings": settings or {}}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_differences_are_of_the_same_people(tmp_path):
    good, bad = run(tmp_path / "good", outputs(0.8)), run(tmp_path / "bad", outputs(0.5, seed=1))
    done = compare_runs({"bad": [bad], "good": [good]}, CompareConfig(out=tmp_path / "table"))
    reference, row = done.rows
    known = [classification_metrics(LABELS, values, NAMES) for values in (outputs(0.5, seed=1), outputs(0.8))]
    assert list(row.scores) == ["uar", "war"] and reference.differences == {}
    for metric, found in row.differences.items():
        assert row.scores[metric][0] == pytest.approx(known[1][metric])
        assert found.value == pytest.approx(known[1][metric] - known[0][metric])
        assert 0 < found.low < found.value < found.high and found.p == found.p_holm < 0.01
        assert verdict(metric, found) == "better"
    hits = [values.argmax(axis=1) == LABELS for values in (outputs(0.8), outputs(0.5, seed=1))]
    counts = int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())
    assert (row.only_this, row.only_reference) == counts
    assert row.mcnemar == pytest.approx(binomtest(counts[0], sum(counts)).pvalue)
    numbers = json.loads((tmp_path / "table" / "compare.json").read_text())
    assert numbers["num_drawn"] == PEOPLE and numbers["rows"][1]["differences"]["uar"]["verdict"] == "better"
    assert {file.name for file in (tmp_path / "table").iterdir()} == {
        f"compare.{e}" for e in ("md", "csv", "tex", "json", "png")
    }
    written = pd.read_csv(tmp_path / "table" / "compare.csv", dtype=str, keep_default_na=False)
    assert written["score"].tolist() == ["UAR, %", "UAR, %", "WAR, %", "WAR, %", "McNemar"]
    turned = compare_runs({"bad": [bad], "good": [good]}, CompareConfig(reference="good", metrics="macro_f1"))
    assert verdict("macro_f1", turned.rows[0].differences["macro_f1"]) == "worse"


def test_equal_runs_show_no_difference_and_many_rows_are_corrected_for(tmp_path):
    rows = {f"r{n}": [run(tmp_path / f"r{n}", outputs(0.6, seed=n))] for n in range(6)}
    rows["same"] = [run(tmp_path / "same", outputs(0.6))]
    done = compare_runs(rows, CompareConfig(metrics=["war"]))
    *others, same = done.rows[1:]
    found = same.differences["war"]
    assert tuple(found) == (0, 0, 0, 1, 1) and verdict("war", found) == "no difference shown"
    assert (same.only_this, same.only_reference, same.mcnemar) == (0, 0, 1)
    raw = [row.differences["war"].p for row in done.rows[1:]]
    assert min(row.differences["war"].p_holm for row in others) == pytest.approx(min(1, 6 * min(raw)))


def test_the_test_errs_as_often_as_it_says_and_agrees_with_the_interval():
    rng, wrong = np.random.default_rng(1), 0
    for trial in range(200):
        rate = rng.beta(7, 3, 20)[:, None]  # people differ in how well they are recognised, by both alike
        hits = rng.random((2, 20, 6)) < rate
        who, alike = np.repeat(range(20), 6), np.zeros(120, int)
        given = [np.stack([each.ravel(), ~each.ravel()], axis=1).astype(float) for each in hits]
        both = [subject_scores(alike, each, who, "ab")["war"] for each in given]
        p = bootstrap_p(*both, seed=trial)
        low, high = interval(*both, seed=trial)[1:]
        wrong += p < 0.05
        assert (p < 0.05) == (low > 0 or high < 0) or abs(p - 0.05) < 0.02
    assert 2 <= wrong <= 20  # of 200


def test_mcnemar():
    assert mcnemar_p(0, 0) == 1 and mcnemar_p(5, 5) == 1
    assert mcnemar_p(9, 1) == mcnemar_p(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)


def test_several_runs_of_each_row_are_compared_over_runs_and_people(tmp_path):
    rows = {
        name: [run(tmp_path / f"{name}{n}", outputs(rate, seed=10 * k + n)) for n in range(3)]
        for k, (name, rate) in enumerate({"bad": 0.5, "good": 0.8}.items())
    }
    done = compare_runs(rows)
    found = done.rows[1].differences["uar"]
    assert found.low > 0 and verdict("uar", found) == "better" and np.isnan(done.rows[1].mcnemar)
    assert "Means over 3 runs each" in done.caption
    alone = compare_runs({name: folders[:1] for name, folders in rows.items()}).rows[1].differences["uar"]
    assert found.value != alone.value


HALVES = {"1": slice(0, 120), "2": slice(120, NUM)}


def two_folds(folder: Path, settings=None) -> dict[str, list[Path]]:
    """The folders of two methods, each with both folds of a dataset; of the first two videos, which are a group, fold 1.

    settings: those of the evaluations, by method and fold.
    """
    lines = ["path,label,subject,group"]
    lines += [f"v{n:03d}.mp4,{NAMES[LABELS[n]]},{SUBJECTS[n]},{'g' if n < 2 else ''}" for n in range(NUM)]
    data = folder / "data"
    data.mkdir()
    for name, rows in HALVES.items():
        (data / f"{name}.csv").write_text("\n".join([lines[0], *lines[1:][rows]]) + "\n")
    folds = tuple(Fold(name, Path("1.csv"), Path(f"{name}.csv")) for name in HALVES)
    write_dataset_file(data, PreparedDataset("own", "Own", "classification", Path("."), tuple(NAMES), folds))
    found = {}
    for number, method in enumerate(("a", "b")):
        for name, rows in HALVES.items():
            values, chosen = outputs(0.5 + number / 4, seed=number), (settings or {}).get((method, name))
            run(folder / method / f"fold_{name}", values, rows, settings=chosen)
        write_folds_file(folder / method, data, "svfap_debug")
        found[method] = [folder / method]
    return found


def test_folds_are_pooled_and_groups_scored(tmp_path):
    found, data = two_folds(tmp_path), tmp_path / "data"
    if LABELS[0] != LABELS[1]:
        with pytest.raises(UserError, match="several labels"):
            compare_runs(found)
        for file in data.glob("?.csv"):
            file.write_text(file.read_text().replace(",g", ","))
    done = compare_runs(found)
    assert done.rows[1].scores["war"][0] == pytest.approx((outputs(0.75, 1).argmax(1) == LABELS).mean())
    assert f"the same {NUM} videos of {PEOPLE} subjects" in done.caption
    (tmp_path / "b" / "fold_2" / "evaluation" / "predictions.csv").unlink()
    lacks = r"common to all: 120 videos \(.*\); \S+b, fold 2 is not evaluated \(no predictions in .*; evaluate all"
    with pytest.raises(UserError, match=lacks):
        compare_runs(found)
    part = compare_runs(found, CompareConfig(allow_incomplete=True))
    assert "the same 120 videos" in part.caption and "b, fold 2 is not evaluated" in part.caption


def test_folds_that_were_evaluated_with_other_settings_are_not_pooled(tmp_path):
    same = {"num_segments": 2, "fps": None}
    chosen = {("a", "1"): {**same, "flip": True}, ("a", "2"): same, ("b", "1"): same, ("b", "2"): same}
    found = two_folds(tmp_path, chosen)
    for file in (tmp_path / "data").glob("?.csv"):
        file.write_text(file.read_text().replace(",g", ","))
    message = r"were evaluated with other settings \(flip: true for fold 1, not set for fold 2\)"
    with pytest.raises(UserError, match=message):
        pool(PoolConfig(out=tmp_path / "a"))
    with pytest.raises(UserError, match=rf"a: the folds {message}"):
        compare_runs(found)
    assert "cannot be pooled (the folds were evaluated with other settings" in read_run(tmp_path / "a").incomplete[-1]
    assert pool(PoolConfig(out=tmp_path / "b")).numbers["pooled"]["num_evaluated"] == NUM


def test_settings_in_which_rows_differ_are_said_and_runs_of_a_row_have_the_same(tmp_path):
    flips = (True, False, False)
    plain, *others = (
        run(tmp_path / str(n), outputs(0.6, seed=n), settings={"num_crops": 2, "flip": flip})
        for n, flip in enumerate(flips)
    )
    caption = compare_runs({"a": [plain], "b": [others[0]]}).caption
    assert "other settings, which may be what differs (flip: true for a, not set for b)" in caption
    assert "settings" not in compare_runs({"a": [others[0]], "b": [others[1]]}).caption
    with pytest.raises(
        UserError, match=r"a: its runs were evaluated with other settings \(flip: true for .*0, not set for"
    ):
        compare_runs({"a": [plain, others[0]], "b": [others[1], run(tmp_path / "3", outputs(0.5))]})


@pytest.mark.parametrize(("people", "least"), [(2, "0.246"), (4, "0.057"), (5, None)])
def test_few_people_cannot_show_a_difference_and_the_caption_says_so(people, least, tmp_path):
    """All of them are recognised better by the second model, so that the interval leaves out 0."""
    who = [f"p{n % people}" for n in range(NUM)]
    rows = {
        "bad": [run(tmp_path / "bad", outputs(0.2), subject=who)],
        "good": [run(tmp_path / "good", outputs(0.9, 1), subject=who)],
    }
    done = compare_runs(rows)
    found = done.rows[1].differences["uar"]
    assert found.low > 0 and found.p == pytest.approx(least_p(people)) and (found.p > 0.05) == bool(least)
    assert (f"of {people} subjects p is never below {least}, so that no difference" in done.caption.lower()) == bool(
        least
    )
    assert "correction for several rows" not in done.caption
    done = compare_runs({**rows, "also": [run(tmp_path / "also", outputs(0.5, 2), subject=who)]})
    assert "Each interval is of one difference, without a correction for several rows" in done.caption
    assert "after Holm's correction, so that no difference can be shown" in done.caption


def test_damaged_predictions_are_told_apart_from_videos_that_could_not_be_read(tmp_path):
    other, broken = run(tmp_path / "other", outputs(0.5)), run(tmp_path / "broken", outputs(0.6))
    file = broken / "evaluation" / "predictions.csv"
    text = file.read_text()
    first, *lines = text.splitlines(keepends=True)
    for content, message in (
        (text + lines[2] + lines[3], r"predictions\.csv: has several rows of path v002\.mp4"),
        (first + "".join(lines[:100]), r"has 100 rows, and metrics\.json says that 240 were written; it was cut off"),
        (text[: -len(lines[-1]) // 2], "do not fit together"),
        (text[: text.rindex(",")] + ",nan\n", r"do not fit together \(a number is missing\)"),
        (text.replace("path,", "file,", 1), "has no column path"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            compare_runs({"a": [other], "b": [broken]})


def test_groups_and_frames_are_what_is_compared_where_they_were_scored(tmp_path):
    labels = np.repeat(LABELS[: NUM // 2], 2)
    groups = [f"g{n // 2}" for n in range(NUM)]
    for number, name in enumerate("ab"):
        folder = run(tmp_path / name, outputs(0.6, seed=number), labels=labels, group=groups) / "evaluation"
        (folder / "groups.csv").touch()
    assert "the same 120 groups" in compare_runs({"a": [tmp_path / "a"], "b": [tmp_path / "b"]}).caption
    (tmp_path / "b" / "evaluation" / "groups.csv").unlink()
    with pytest.raises(UserError, match=r"b: scores videos, and .*a groups; evaluate both in the same way"):
        compare_runs({"a": [tmp_path / "a"], "b": [tmp_path / "b"]})
    truth = np.random.default_rng(0).normal(size=(60, 1))
    for number, name in enumerate("cd"):
        folder = tmp_path / name
        folder.mkdir()
        values = truth + np.random.default_rng(number + 1).normal(size=truth.shape) * (1 + 2 * number)
        paths = [f"v{n // 6}.mp4" for n in range(60)]
        frames = predictions_table(paths, values, ["v"], truth, "regression", {"frame": list(range(6)) * 10})
        videos = predictions_table(
            paths[::6], values[::6], ["v"], truth[::6], "regression", {"subject": list("ppqqrrsstt")}
        )
        write_csv(folder / "frames.csv", frames)
        write_csv(folder / "predictions.csv", videos)
        (folder / "metrics.json").write_text('{"num_expected": 10}')
    done = compare_runs({"c": [tmp_path / "c"], "d": [tmp_path / "d"]}, CompareConfig(metrics="mae"))
    assert "the same 60 frames of 5 subjects" in done.caption and "fewer than 10 subjects" in done.caption
    assert verdict("mae", done.rows[1].differences["mae"]) == "worse"  # a larger error


def test_runs_of_other_test_sets_are_refused(tmp_path):
    whole, values = run(tmp_path / "whole", outputs(0.6)), outputs(0.7, 1)
    part = run(tmp_path / "part", values, slice(0, 200), unread=40)
    other = run(tmp_path / "other", values, labels=(LABELS + (np.arange(NUM) == 7)) % 3)
    named = run(tmp_path / "named", values, names=["x", "y", "w"])
    with pytest.raises(
        UserError,
        match=r"not of the same videos: common to all: 200 videos \(.*whole 240, .*part 200\); .*part: 40 of 240",
    ):
        compare_runs({"a": [whole], "b": [part]})
    done = compare_runs({"a": [whole], "b": [part]}, CompareConfig(allow_incomplete=True))
    assert "INCOMPLETE: common to all: 200 videos" in done.caption
    assert "part: 40 of 240 videos could not be read (see " in done.caption
    with pytest.raises(UserError, match=r"other: has another label of v007\.mp4 than"):
        compare_runs({"a": [whole], "b": [other]})
    with pytest.raises(UserError, match=r"named: predicts x, y, w, and .*whole x, y, z"):
        compare_runs({"a": [whole], "b": [named]})
    turned = run(tmp_path / "turned", outputs(0.6)[:, ::-1], labels=2 - LABELS, names=NAMES[::-1])
    assert (
        compare_runs({"a": [whole], "b": [turned]}).rows[1].differences["uar"].value == 0
    )  # another order of the classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "alone has nothing to be compared with"),
        (["a", "none"], "none: no such folder"),
        (["a", "a/evaluation/.."], "is given twice"),
        (["a", "a"], "a: is given twice"),
        (["a", "a/"], "a: is given twice"),
        (["x=a", "y=a/evaluation"], "a/evaluation: is given twice, also as a; each run can be compared once"),
        (["a", "b", "metrics", "uar", "macro_f1"], "several values of an option are one word here: metrics '[uar, macro_f1]'"),
        (["metrics", "uar", "macro_f1", "a", "b"], "give several scores as one word: metrics '[uar, macro_f1]'"),
        (["a", "=b"], "'=b': write NAME=RUN"),
        (["a", "x=b,,c"], "'x=b,,c': write NAME=RUN"),
        (["a", "x="], "'x=': write NAME=RUN"),
        (["x=a", "x=b"], "two rows have this name"),
        (["x=a,b", "c"], "needs as many runs as the others"),
        (["a", "b", "--reference", "c"], "reference='c' is none of the rows a, b"),
        (["a", "b", "--metrics", "ccc"], "metrics='ccc' is none of uar, war"),
        (["a", "b", "--metrics", "f1"], "metrics='f1' is none of"),
        (["a", "empty"], "empty: holds no predictions.csv"),
        (["a", "damaged"], "damaged/evaluation/metrics.json: cannot be read as JSON"),
        (["a", "gone"], "gone/evaluation/metrics.json: is not there or not that of an evaluation"),
        (["a", "part"], "evaluate all on the same ones, or give allow_incomplete"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        run(tmp_path / name, outputs(0.6, seed=number))
    (run(tmp_path / "damaged", outputs(0.6)) / "evaluation" / "metrics.json").write_text("{")
    (run(tmp_path / "gone", outputs(0.6)) / "evaluation" / "metrics.json").unlink()
    run(tmp_path / "part", outputs(0.6), unread=1)
    (tmp_path / "empty").mkdir()
    arguments = [f"--{word}" if word == "metrics" else word for word in arguments]
    try:
        status = main(["compare", *arguments])
    except SystemExit as stop:  # the parser's
        status = stop.code
    assert status in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("--", "").split())


def test_names_of_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rate=0.1").mkdir()
    assert parse_rows(["runs/a/", "rate=0.1", "b=runs/b0,runs/b1"]) == {
        "runs/a": ["runs/a/"], "rate=0.1": ["rate=0.1"], "b": ["runs/b0", "runs/b1"],
    }  # fmt: skip


def test_the_table_fits_a_narrow_terminal(tmp_path, monkeypatch, capsys):
    """With whole intervals; in a wide one they stand beside their values."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("runs/a", "runs/b", "runs/c")):
        run(tmp_path / name, outputs(0.5 + 0.15 * number, seed=number))
    for columns, interval_of in ((80, r"\│ \[\+\d+\.\d, \+\d+\.\d\] │"), (200, r"\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\]")):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["compare", "runs/a", "runs/b", "runs/c"]) == 0
        table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "│┃┏┡└"]
        assert max(map(len, table)) <= columns
        assert any(re.search(interval_of, line) for line in table)
        assert all(line.count("[") == line.count("]") for line in table)
