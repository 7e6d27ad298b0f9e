"""Tables of experiments from runs of known skill: intervals, the reference row, tests, baselines, captions, figures."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot
from stub_runs import StubRuns

import svfap.experiments.experiment as experiment_module
import svfap.experiments.runs as runs_module
from svfap.data.prepared import Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.errors import UserError
from svfap.evaluation.replication import row_estimate
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import experiment, experiment_runs
from svfap.experiments.results import Line, Results
from svfap.experiments.runs import BASELINE
from svfap.experiments.studies import STUDIES, Reported
from svfap.train.config import FinetuneConfig
from svfap.view.figures.studies import Bar, study_figure

LABELS = ("happy", "neutral", "sad")
PEOPLE, CLIPS = 80, 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A prepared dataset of many test clips, whose videos are never read."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, subjects in (("m", True), ("nobody", False)):
        lines = ["path,label" + ",subject" * subjects]
        for number in range(PEOPLE * CLIPS):
            line = f"v{number:04d}.mp4,{LABELS[number % 3]}"
            lines.append(line + f",p{number // CLIPS}" * subjects)
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    folds = (Fold("a", Path("m.csv"), Path("m.csv")), Fold("b", Path("m.csv"), Path("nobody.csv")))
    described = PreparedDataset("own", "Own", "classification", Path("."), LABELS, folds, Path("m.csv"), ("uar", "war"))
    write_dataset_file(folder, described)
    return folder


@pytest.fixture(autouse=True)
def costs(request, monkeypatch):
    """Counting the costs of models takes longer than all else here, then drawing the figures: they are made, and drawn once."""
    if request.function is not test_a_true_difference_is_shown_and_others_are_not:
        monkeypatch.setattr(experiment_module, "save_figure", lambda figure, path: pyplot.close(figure))
    monkeypatch.setattr(
        experiment_module, "complexity", lambda config: SimpleNamespace(parameters=60_000, multiply_adds=2e6)
    )


def done(prepared, out, monkeypatch, skill, name="masking", **settings):
    """The table's numbers, the runs, and the table."""
    stub = StubRuns(read_dataset(prepared), skill)
    monkeypatch.setattr(runs_module, "run_all", stub)
    # The videos are not there, and those that fit are those that are scored.
    monkeypatch.setattr(runs_module.ExperimentRuns, "require_labels", lambda self: None)
    config = ExperimentConfig(out=out, dataset=prepared, preset="svfap_debug", **settings)
    table = experiment(name, config)[name]
    return json.loads((out / f"{name}.json").read_text()), stub, table


def differing(run, reader):
    """75% masking is far worse; 95% and 85% are as good as 90%."""
    if reader == "chance":
        return 1 / 3
    poor = ("mask_ratio=0.75", "scratch", "pixels")
    return 0.4 if any(name in run.out.name for name in poor) else 0.7


def test_a_true_difference_is_shown_and_others_are_not(prepared, tmp_path, monkeypatch):
    found, _, table = done(prepared, tmp_path, monkeypatch, differing, readings=2)
    assert found["reference"] == "90%" and found["metrics"] == ["uar", "war"]
    lines = {(line["row"], line["reader"]): line for line in found["lines"]}
    assert list(lines)[:5] == [(row, "finetune") for row in ("75%", "85%", "90%", "95%")] + [("75%", "linear")]
    assert list(lines)[16:] == [
        ("chance", "chance"),
        ("pixels", "linear"),
        ("untrained", "linear"),
        ("untrained", "linear_tokens"),
        ("untrained", "attentive"),
    ]
    for reader in ("finetune", "linear", "linear_tokens", "attentive"):
        assert lines["75%", reader]["difference"]["value"] == pytest.approx(-0.3, abs=0.05)
        assert lines["75%", reader]["difference"]["p_holm"] < 0.05
        assert lines["85%", reader]["difference"]["p_holm"] > 0.05
        assert lines["90%", reader]["difference"] is None
        readings = lines["85%", reader]["scores"]["uar"]["readings"]
        assert np.shape(readings) == (3, 1 if reader.startswith("linear") else 2)
        assert lines["85%", reader]["scores"]["uar"]["value"] == pytest.approx(np.mean(readings))
    cells = table.set_index([table.columns[0], "read by"])
    verdicts = cells["p (Holm)"].xs("fine-tuning", level=1)
    assert "no difference shown" not in verdicts["75%"] and "no difference shown" in verdicts["85%"]
    assert verdicts["90%"] == "" and cells["difference to 90%"]["90%", "fine-tuning"] == "reference"
    assert cells["difference to 90%"]["75%", "fine-tuning"].startswith("−")
    assert cells["paper: UAR / WAR, %"]["90%", "fine-tuning"] == "62.63 / 74.81"
    assert Reported(21, 30).scores_text == "about 21 / 30"  # read off a figure
    for suffix in ("md", "csv", "tex", "png"):
        assert (tmp_path / f"masking.{suffix}").stat().st_size > 500


def test_numbers_are_those_of_the_statistics(prepared, tmp_path, monkeypatch):
    """Both the pre-trainings and the people are in the interval, from the files of the runs."""
    found, _, _ = done(prepared, tmp_path, monkeypatch, differing, readings=2)
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=prepared, preset="svfap_debug", readings=2))
    results = Results(runs, runs.rows(STUDIES["masking"]))
    row = results.rows[1]
    files = results._files(row, "finetune")
    assert [[file.parts[-3][-3:] for file in group] for group in files] == [
        [f"{p}-{r}" for r in (0, 1)] for p in range(3)
    ]
    estimate = row_estimate([results._score(group)["uar"] for group in files])
    assert found["lines"][1]["scores"]["uar"]["standard_error"] == pytest.approx(estimate.standard_error)
    corrected = [found["lines"][n]["difference"]["p_holm"] for n in (0, 1, 3)]
    plain = [found["lines"][n]["difference"]["p"] for n in (0, 1, 3)]
    assert corrected == pytest.approx(
        [min(1, p * 3) if p == min(plain) else c for p, c in zip(plain, corrected, strict=True)]
    )
    assert all(c >= p for p, c in zip(plain, corrected, strict=True)) and corrected != plain


@pytest.mark.slow
def test_the_caption_says_what_was_done_and_warns_of_a_large_error(prepared, tmp_path, monkeypatch):
    noisy = {0: 0.5, 1: 0.7, 2: 0.9}

    def skill(run, reader):
        return noisy[int(run.out.name.split("seed")[1][0])] if "seed" in run.out.name else 0.5

    found, _, _ = done(prepared, tmp_path / "loud", monkeypatch, skill, readings=2)
    caption = found["caption"]
    for words in (
        "480 test clips of 80 people", "pre-training seeds 0 to 2, 2 readings of each", "Standard error of a row: ",
        "Holm's correction", "reference row, 90%", "Warning: it is above 1.5 points for ", "75% (fine-tuning)",
    ):  # fmt: skip
        assert words in caption
    quiet, _, _ = done(prepared, tmp_path / "quiet", monkeypatch, lambda run, reader: 1.0, readings=1)
    assert "Warning" not in quiet["caption"]
    nobody, _, _ = done(prepared, tmp_path / "nobody", monkeypatch, skill, readings=1, fold="b")
    assert "480 test clips of 480 units, as people are not known" in nobody["caption"]


def test_one_pretraining_has_no_interval_and_no_test(prepared, tmp_path, monkeypatch):
    found, _, table = done(prepared, tmp_path, monkeypatch, differing, pretrainings=1, readings=1)
    assert "one pre-training, 1 reading, so there are no intervals over pre-trainings and no tests" in found["caption"]
    assert all("[" not in cell for cell in table["UAR, %"])
    assert set(table["p (Holm)"]) == {"", "not tested"} and set(table["standard error"]) == {"–"}


def test_rows_that_all_score_alike_have_no_interval_and_no_test(prepared, tmp_path, monkeypatch):
    found, _, table = done(prepared, tmp_path, monkeypatch, lambda run, reader: 1.0, readings=1)
    words = "No interval and no test where all pre-trainings and people score alike: 75% (fine-tuning), "
    assert words in found["caption"]
    assert set(table["UAR, %"]) == {"100.0"} and set(table["standard error"]) == {"–"}
    assert set(table["p (Holm)"]) == {"", "not tested"}


def test_intervals_of_scores_stay_in_their_range(prepared, tmp_path, monkeypatch):
    """Two pre-trainings that differ much have 1 degree of freedom."""
    found, _, _ = done(
        prepared, tmp_path, monkeypatch, lambda run, reader: 0.1 if "seed0" in run.out.name else 0.9,
        pretrainings=2, readings=1,
    )  # fmt: skip
    line = found["lines"][0]["scores"]["uar"]
    assert (line["low"], line["high"]) == (0, 1)


def test_baselines_are_in_the_table_of_rows_that_are_not_probed(prepared, tmp_path, monkeypatch):
    found, stub, _ = done(prepared, tmp_path, monkeypatch, differing, readers=["finetune"], readings=1)
    trivial = ["chance", "linear", "linear", "linear_tokens", "attentive"]
    assert [line["reader"] for line in found["lines"]] == ["finetune"] * 4 + trivial
    assert {run.out.name for run in stub.probes} == {
        "probe-pixels",
        *(f"probe-scratch-to-base-seed{n}" for n in range(3)),
    }
    only, stub, _ = done(
        prepared, tmp_path / "probe", monkeypatch, differing, readers=["linear", "attentive"], readings=1
    )
    assert {line["reader"] for line in only["lines"]} == {"chance", "linear", "attentive"}
    assert stub.of(FinetuneConfig) == []
    only, stub, _ = done(prepared, tmp_path / "linear", monkeypatch, differing, readers=["linear"], readings=2)
    assert only["readings"] == 1 and "seeds 0 to 2, 1 reading of each" in only["caption"], (
        "the linear reader has no seed"
    )
    assert [line["reader"] for line in only["lines"]] == ["linear"] * 4 + ["chance", "linear", "linear"]
    assert {reader for probe in stub.probes if not probe.pixels for reader, _ in probe.results} == {"linear"}


@pytest.mark.parametrize("readers", [["attentive"], ["finetune", "attentive"], ["linear_tokens"]])
def test_baselines_are_compared_with_a_probed_reference_where_there_is_one(prepared, tmp_path, monkeypatch, readers):
    found, _, _ = done(prepared, tmp_path, monkeypatch, differing, readers=readers, readings=1)
    reference = next(line for line in found["lines"] if line["reader"] == readers[-1] and line["difference"] is None)
    for line in found["lines"][-3:]:
        values = [each["scores"]["uar"]["value"] for each in (line, reference)]
        assert line["difference"]["value"] == pytest.approx(values[0] - values[1]), line["row"]


def test_rows_of_the_same_runs_are_no_comparison(prepared, tmp_path, monkeypatch):
    """Fusing in fine-tuning changes what the linear reader gets, and not what the attentive one gets."""
    _, _, table = done(prepared, tmp_path, monkeypatch, differing, "fusion", readings=1)
    cells = table.set_index([table.columns[0], "read by"])["difference to yes / no"]
    assert cells["yes / no", "probe, linear"] == "reference"
    assert "[" in cells["yes / yes", "probe, linear"] and "[" in cells["no / no", "probe, linear"]
    assert cells["yes / yes", "probe, attentive"] == "the same runs"


def test_a_given_pretraining_is_named(prepared, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    found, stub, _ = done(
        prepared, tmp_path / "out", monkeypatch, differing, "scratch", weights=str(weights), readings=1
    )
    assert "pre-trained: one pre-training that was given" in found["caption"]
    assert "without pre-training here" in found["caption"]
    assert {probe.weights for probe in stub.probes} == {None, str(weights)}


def test_test_videos_that_are_missing_are_an_error(prepared, tmp_path, monkeypatch):
    done(prepared, tmp_path, monkeypatch, differing, readings=1)
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=prepared, preset="svfap_debug", readings=1))
    file = runs.finetunings(BASELINE)[0][0].out / "evaluation" / "metrics.json"
    before = file.read_text()
    file.write_text(json.dumps({"num_expected": 480, "num_evaluated": 478}))
    with pytest.raises(UserError, match=r"metrics.json: 2 test videos could not be read"):
        Results(runs, runs.rows(STUDIES["masking"])).lines()
    file.write_text(before)
    table = file.with_name("predictions.csv")
    table.write_text(table.read_text().replace("v0000", "other"))
    with pytest.raises(UserError, match=r"predictions.csv: .*other.mp4 is not in the test part"):
        Results(runs, runs.rows(STUDIES["masking"])).lines()


def test_values_are_scored_by_ccc_without_points(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "values"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [f"v{n:03d}.mp4,{rng.normal():.3f},{rng.normal():.3f},p{n // 6}" for n in range(240)]
    (folder / "m.csv").write_text("\n".join(["path,valence,arousal,subject", *rows]) + "\n")
    dataset = PreparedDataset(
        "own", "Own", "regression", Path("."), ("valence", "arousal"), (Fold("a", Path("m.csv"), Path("m.csv")),),
        Path("m.csv"), ("pcc", "ccc"),
    )  # fmt: skip
    write_dataset_file(folder, dataset)
    found, _, table = done(folder, tmp_path / "out", monkeypatch, lambda run, reader: 0.8, "scale", readings=1)
    assert found["metrics"] == ["ccc", "pcc"] and "Standard error of a row: 0.0" in found["caption"]
    assert "points" not in found["caption"]
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", table["CCC"].iloc[0])


def test_a_line_without_a_test_shows_no_difference():
    assert (
        not Line("row", "finetune", {}, {}).shows_difference
        and Line("row", "finetune", {}, {}, p=0.01).shows_difference
    )


def test_figures_show_rows_intervals_reference_baselines_and_the_papers_numbers():
    rows = {"a": Bar(0.3, 0.2, 0.4, [0.2, 0.4]), "b": Bar(0.5, math.nan, math.nan, [0.5])}
    panels = {"fine-tuning": rows, "probe, linear": rows}
    for joined in (False, True):
        figure = study_figure(
            panels, "uar", "what", reference="b", joined=joined, paper={"b": 0.6},
            baselines={"fine-tuning": {"chance": 0.1}, "probe, linear": {"untrained": 0.2, "chance": 0.1}},
        )  # fmt: skip
        first, second = figure.axes
        assert [tick.get_text() for tick in first.get_xticklabels()] == ["a", "b"]
        assert [bars.lines[0].get_ydata()[0] for bars in first.containers] == pytest.approx([30, 50])
        (interval,) = [c.get_segments()[0] for bars in first.containers for c in bars.lines[2]]
        assert sorted(interval[:, 1]) == pytest.approx([20, 40])
        colors = [bars.lines[0].get_color() for bars in first.containers]
        assert colors[0] != colors[1], "the reference has a colour of its own"
        drawn = [(x, round(y)) for c in first.collections for x, y in np.asarray(c.get_offsets()).tolist()]
        assert (1, 60) in drawn and (1, 60) not in [
            (x, round(y)) for c in second.collections for x, y in np.asarray(c.get_offsets()).tolist()
        ]
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert {"row, 95% interval", "reference row", "untrained", "the paper (DFEW, fold 1)"} <= set(labels)
        assert any(line.get_ydata()[0] == pytest.approx(20) for line in second.lines)
        assert len({line.get_color() for a in figure.axes for line in a.lines if line.get_label() == "chance"}) == 1


def test_steps_are_in_the_order_of_rows_and_pretrainings(prepared, tmp_path):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=prepared, preset="svfap_debug", readings=2))
    steps = runs.steps(runs.rows(STUDIES["masking"]))
    ordered = [(step.row, step.pretraining) for step in steps if step.row]
    assert all(a <= b for a, b in pairwise(ordered)) and len(set(ordered)) == 4 * 3
    assert [type(step.run).__name__ for step in steps[:4]] == [
        "PretrainConfig",
        "ProbeRun",
        "FinetuneConfig",
        "FinetuneConfig",
    ]
    assert len({step.run.out for step in steps}) == len(steps) == 4 * 3 * 4 + 4
