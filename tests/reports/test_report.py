"""Reports of runs show what their folders hold, with the right numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pages import LABELS, NAMES, PREDICTED, RECORDS, assert_self_contained, film, read_page

from svfap.errors import UserError
from svfap.evaluation.metrics import (
    classification_metrics,
    frame_metrics,
    regression_metrics,
    write_metrics,
)
from svfap.evaluation.predictions import predictions_table
from svfap.reports import scores
from svfap.reports.config import ReportConfig
from svfap.reports.report import report
from svfap.reports.runs import RUN_FILES, read_run
from svfap.view.figures.base import STYLE

BLANK = pytest.mark.usefixtures("blank_figures")  # in tests of what stands beside the figures


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setitem(STYLE, "figure.dpi", 50)


def fake_run(folder: Path, *, predicted=PREDICTED, num_expected: int = 8) -> Path:
    """A run of classification with all that the other verbs write."""
    for name in RUN_FILES.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    probabilities = np.eye(3)[predicted] * 0.7 + 0.1
    (folder / "config.yaml").write_text("preset: svfap_tiny\nnote: <b>bold</b>\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    facts = {
        "format_version": 2,
        "finished": True,
        "epochs": 2,
        "best_epoch": 1,
        "chosen_by": "validation uar",
        "parameters": 1234567,
    }
    (folder / "metrics.json").write_text(json.dumps({**facts, "seconds": 61.5, "last_validation": {"uar": 0.111}}))
    metrics = classification_metrics(LABELS, probabilities, NAMES)
    write_metrics(
        folder / "evaluation/metrics.json",
        {"model": "m", **metrics, "num_expected": num_expected, "num_evaluated": 8},
    )
    table = predictions_table([f"{i}.mp4" for i in range(8)], probabilities, NAMES, LABELS)
    table.insert(1, "subject", list("aabbccdd"))
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    features = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.savez(folder / "evaluation/features.npz", features=features, paths=table["path"].to_numpy(str))
    clip = np.random.default_rng(0).integers(0, 255, (16, 16, 16, 3), dtype=np.uint8)
    (folder / "prediction/affect.png").write_bytes(cv2.imencode(".png", clip[1])[1].tobytes())
    (folder / "reconstruction/reconstruction.png").write_bytes(cv2.imencode(".png", clip[0])[1].tobytes())
    film(folder / "reconstruction/reconstruction.mp4")
    return folder


def keep(folder: Path, *names: str) -> Path:
    """Keep only these files of a run."""
    for name in set(RUN_FILES) - set(names):
        for path in folder.glob(RUN_FILES[name]):
            path.unlink()
    return folder


CAPTIONS = [
    "Loss and validation over epochs",
    "Recall of each class (videos)",
    "Confusion matrix: rows are the truth",
    "Reliability",
    "Features of the test videos",
    "Affect over time in one video",
    "Reconstruction of masked frames",
    "Reconstruction of masked frames, as a film",
]


def test_a_report_of_two_runs_shows_all_their_results(tmp_path, monkeypatch):
    confusions, bars = [], []
    monkeypatch.setattr(
        scores,
        "confusion_matrix",
        lambda c, names, f=scores.confusion_matrix: confusions.append((c, names)) or f(c, names),
    )
    monkeypatch.setattr(scores, "comparison_bars", lambda r, m, f=scores.comparison_bars: bars.append(r) or f(r, m))
    good = fake_run(tmp_path / "pretrained")
    poor = fake_run(tmp_path / "scratch", predicted=[0, 1, 2, 0, 1, 2, 0, 1], num_expected=10)
    report([good, poor, good], ReportConfig(out=tmp_path / "out" / "report.html", title="Demo"))
    text, outline = read_page(tmp_path / "out" / "report.html")
    assert_self_contained(text, outline)
    assert outline.texts["h1"] == ["Demo"]
    assert outline.texts["h2"] == ["Contents", "Overview", "pretrained", "scratch"]
    parts = ["Training", "Scores", "Calibration", "Embedding", "Bottleneck tokens", "The 6 hardest videos", "On video"]
    assert outline.texts["h3"] == parts * 2
    # Recalls of the good run by hand: 3/4, 1, 1/2; six of eight are right.
    assert outline.row("pretrained")[1:3] == ["75.00", "75.00"] and outline.row("pretrained")[5] == "8"
    assert outline.row("scratch")[5] == "8 of 10"
    assert outline.texts["th"][:6] == ["run", "UAR, %", "WAR, %", "Weighted F1, %", "Macro F1, %", "videos"]
    assert outline.row("happy") == ["happy", "75.00", "75.00", "75.00", "4"]
    assert [row[0] for row in outline.rows if row and row[0] in NAMES] == NAMES * 2
    assert confusions[0] == ([[3, 1, 0], [0, 2, 0], [1, 0, 1]], NAMES) and len(confusions) == 2
    assert [round(run["war"], 6) for run in bars[0].values()] == [0.75, 0.375] and len(bars) == 1
    for fact in ("1,234,567", "61.5", "validation uar"):
        assert fact in outline.texts["td"]
    assert any("Only 8 of 10 test videos" in p for p in outline.texts["p"])
    assert not any("different videos" in p for p in outline.texts["p"])
    assert outline.texts["figcaption"] == ["Classification on the test set", *CAPTIONS, *CAPTIONS]
    assert outline.texts["pre"] == ["preset: svfap_tiny\nnote: <b>bold</b>\n"] * 2
    for picture in ("prediction/affect.png", "reconstruction/reconstruction.png"):
        assert (good / picture).read_bytes() in outline.media("img")
    assert outline.media("video")[0] == (good / "reconstruction/reconstruction.mp4").read_bytes()
    alts = [a["alt"] for t, a in outline.tags if t == "img"]
    assert "Recall by class: happy 75%, sad 100%, surprise 50%" in alts


def test_a_run_of_several_datasets_is_of_none_of_them_alone(tmp_path):
    """So that no figures of the paper stand beside its scores as if it had been trained on the one dataset."""
    run = keep(fake_run(tmp_path / "run"), "config", "log")
    (run / "config.yaml").write_text("dataset: [/nowhere/dfew:2, /nowhere/stills:1]\n")
    assert read_run(run).dataset == "dfew, stills"


@BLANK
def test_a_notice_warns_that_runs_were_tested_on_different_videos(tmp_path):
    first, second = (keep(fake_run(tmp_path / name), "metrics", "predictions") for name in ("first", "second"))
    file = second / "evaluation/predictions.csv"
    file.write_text(file.read_text().replace("7.mp4", "8.mp4"))
    report([first, second], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    _, outline = read_page(tmp_path / "report.html")
    assert any("tested on different videos" in p for p in outline.texts["p"])
    assert not {"Bottleneck tokens", "The 6 hardest videos"} & set(outline.texts["h3"])


def test_a_report_of_regression_shows_scores_per_clip_and_per_frame(tmp_path):
    folder = tmp_path / "affect"
    (folder / "evaluation").mkdir(parents=True)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 2))
    predicted = truth + 0.1 * rng.normal(size=(20, 2))
    predicted[:, 1] = 0.25
    names = ["valence", "arousal"]
    metrics = regression_metrics(truth, predicted, names)
    frames = frame_metrics([truth[:9], truth[9:]], [predicted[:9] * 2, predicted[9:]], names)
    write_metrics(folder / "evaluation/metrics.json", {**metrics, "frames": frames})
    table = predictions_table([str(i) for i in range(20)], predicted, names, truth, "regression")
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    _, outline = read_page(tmp_path / "report.html")
    cells = outline.texts["td"]
    assert f"{metrics['ccc']:.4f}" == cells[outline.texts["th"].index("CCC")]
    for expected in (metrics, frames):
        for name in names:
            assert f"{expected['per_dimension'][name]['mae']:.4f}" in cells
    assert any("set to 0: arousal" in p for p in outline.texts["p"])
    assert outline.texts["figcaption"] == ["Predictions over targets", "Bland–Altman: differences over means"]
    assert outline.texts["h3"][:2] == ["Scores", "Agreement"]
    difference = predicted[:, 0] - truth[:, 0]
    limits = [row for row in outline.rows if row[:1] == ["valence"]][-1]
    assert limits[1:3] == [f"{difference.mean():.4g}", f"{difference.std(ddof=1):.4g}"]


@pytest.mark.parametrize("left", sorted(RUN_FILES))
def test_a_run_with_a_single_file_shows_only_its_content(tmp_path, left):
    folder = fake_run(tmp_path / "run")
    (folder / "probe").mkdir(exist_ok=True)
    score = {
        "reader": "linear",
        "features": "last",
        "encoder": "trained",
        "score": "uar",
        "value": 0.5,
        "low": 0.4,
        "high": None,
    }
    content = {"caption": "Probes", "summary": [{"row": "linear", "UAR, %": "50.0"}], "scores": [score]}
    (folder / RUN_FILES["probe"]).write_text(json.dumps(content))
    keep(folder, left)
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    _, outline = read_page(tmp_path / "report.html")
    captions = outline.texts.get("figcaption", [])
    expected = {
        "log": CAPTIONS[:1],
        "metrics": CAPTIONS[1:3],
        "predictions": ["Reliability"],
        "probe": ["Probes"],
        "timeline": ["Affect over time in one video"],
        "picture": ["Reconstruction of masked frames"],
        "film": ["Reconstruction of masked frames, as a film"],
    }
    assert captions == expected.get(left, [])
    assert ("pre" in outline.texts) == (left == "config")
    assert ("1,234,567" in outline.texts.get("td", [])) == (left == "training")
    assert (["happy", "75.00"] in [row[:2] for row in outline.rows]) == (left == "metrics")
    for heading, line in (
        ("Embedding", "No features are saved with this evaluation (evaluation/features.npz is missing)."),
        ("Bottleneck tokens", f"No maps of the bottleneck tokens: its model ({folder}) cannot be found."),
    ):
        assert (heading in outline.texts.get("h3", [])) == (line in outline.texts["p"]) == (left == "predictions")


def folds_of(folder: Path, dataset: str = "dfew") -> Path:
    """Three folds that tested eight, eight and four videos."""
    for number, (start, stop) in {"1": (0, 8), "2": (0, 8), "10": (0, 4)}.items():
        fold = fake_run(folder / f"fold_{number}")
        (fold / "config.yaml").write_text(f"preset: svfap_base\ndataset: /nowhere/{dataset}\n")
        rng = np.random.default_rng(int(number))
        probabilities = rng.dirichlet(np.ones(3), 8)[start:stop]
        labels = LABELS[start:stop]
        paths = [f"{number}_{i}.mp4" for i in range(start, stop)]
        predictions_table(paths, probabilities, NAMES, labels).to_csv(fold / "evaluation/predictions.csv", index=False)
        metrics = {**classification_metrics(labels, probabilities, NAMES), "num_expected": len(labels)}
        write_metrics(fold / "evaluation/metrics.json", {**metrics, "num_evaluated": len(labels)})
        (fold / "evaluation/features.npz").unlink()
    return folder


@BLANK
def test_a_folder_of_folds_is_one_run_whose_predictions_are_pooled(tmp_path, monkeypatch):
    confusions, bars = [], []
    monkeypatch.setattr(
        scores, "confusion_matrix", lambda c, names, f=scores.confusion_matrix: confusions.append(c) or f(c, names)
    )
    monkeypatch.setattr(scores, "comparison_bars", lambda r, m, f=scores.comparison_bars: bars.append(r) or f(r, m))
    folder = folds_of(tmp_path / "dfew")
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    text, outline = read_page(tmp_path / "report.html")
    assert_self_contained(text, outline)
    assert outline.texts["h2"] == ["Contents", "Overview", "dfew"]
    each = [json.loads((folder / f"fold_{n}/evaluation/metrics.json").read_text()) for n in (1, 2, 10)]
    assert confusions == [np.sum([one["confusion"] for one in each], axis=0).tolist()]
    tables = [pd.read_csv(folder / f"fold_{n}/evaluation/predictions.csv") for n in (1, 2, 10)]
    everything = pd.concat(tables)
    right = (everything["label"] == everything["prediction"]).mean()
    recall = np.mean([(rows["prediction"] == name).mean() for name, rows in everything.groupby("label")])
    assert outline.row("pooled")[1:3] == [f"{100 * recall:.2f}", f"{100 * right:.2f}"]
    assert outline.row("pooled")[-1] == "20"
    wars = [100 * one["war"] for one in each]
    assert [row[2] for row in outline.rows if row and row[0] in ("fold 1", "fold 2", "fold 10")] == [
        f"{w:.2f}" for w in wars
    ]
    assert outline.row("mean ± sd")[2] == f"{np.mean(wars):.2f} ± {np.std(wars, ddof=1):.2f}"
    names = ["dfew", "paper, SVFAP-S", "paper, SVFAP-B", "authors' released weights"]
    assert list(bars[0]) == names and bars[0][names[2]] == {"uar": 0.6283, "war": 0.7427}
    assert bars[0]["dfew"] == {"uar": pytest.approx(recall), "war": pytest.approx(right)}
    assert (outline.row("folds")[1], outline.row("parameters")[1], outline.row("seconds")[1]) == (
        "3",
        "1,234,567",
        "184.5",
    )
    assert "Loss and validation of every fold" in outline.texts["figcaption"]
    assert any("results.json is not there" in p for p in outline.texts["p"])


@BLANK
def test_the_pooled_scores_of_a_folder_of_folds_are_read_from_results_json(tmp_path):
    folder = folds_of(tmp_path / "run", "unknown")
    pooled = {**classification_metrics(LABELS, np.eye(3)[PREDICTED], NAMES), "num_groups": 8}
    pooled["frames"] = classification_metrics([0, 0, 0, 1], np.eye(3)[[0, 0, 1, 1]], NAMES)
    results = {
        "dataset": "ferv39k",
        "preset": "svfap_base",
        "pooled": pooled,
        "incomplete": ["fold 3 is not evaluated"],
    }
    write_metrics(folder / "results.json", results)
    report([folder], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    _, outline = read_page(tmp_path / "report.html")
    assert outline.row("pooled")[1:3] == ["75.00", "75.00"]
    assert ["happy", "66.67", "100.00", "80.00", "3"] in outline.rows  # of the frames
    assert "Beside the paper's results on FERV39k" in outline.texts["figcaption"]
    assert any("fold 3 is not evaluated" in p for p in outline.texts["p"])
    assert any(p.startswith("Scored over 8 groups of videos") for p in outline.texts["p"])


def grouped_folds(folder: Path, *, scored_on_groups: bool) -> tuple[Path, np.ndarray, list[int]]:
    """Two folds of four videos, in each two of a group; probabilities and labels of all eight videos."""
    labels = [0, 0, 1, 2] * 2
    probabilities = np.random.default_rng(4).dirichlet(np.ones(3), 8)
    for number, rows in (("1", slice(0, 4)), ("2", slice(4, 8))):
        evaluation = folder / f"fold_{number}" / "evaluation"
        evaluation.mkdir(parents=True)
        paths, more = [f"{number}_{i}.mp4" for i in range(4)], {"group": ["a", "a", "b", ""]}
        table = predictions_table(paths, probabilities[rows], NAMES, labels[rows], more=more)
        table.to_csv(evaluation / "predictions.csv", index=False)
        counts = {"num_expected": 5, "num_evaluated": 4, **({"num_groups": 3} if scored_on_groups else {})}
        write_metrics(
            evaluation / "metrics.json", {**classification_metrics(labels[rows], probabilities[rows], NAMES), **counts}
        )
    return folder, probabilities, labels


@BLANK
def test_folds_with_groups_are_pooled_by_group_unless_videos_were_scored(tmp_path):
    folder, probabilities, labels = grouped_folds(tmp_path / "groups", scored_on_groups=True)
    means = [row for part in (probabilities[:4], probabilities[4:]) for row in (part[:2].mean(0), part[2], part[3])]
    expected = classification_metrics([0, 1, 2] * 2, means, NAMES)
    by_video = classification_metrics(labels, probabilities, NAMES)
    assert expected["war"] != pytest.approx(by_video["war"])
    (run,) = report([folder], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    _, outline = read_page(tmp_path / "report.html")
    assert outline.row("pooled")[1:] == [
        *(f"{100 * expected[key]:.2f}" for key in ("uar", "war", "weighted_f1", "macro_f1")),
        "8 of 10",
    ]
    assert run.metrics["num_groups"] == 6 and run.metrics["confusion"] == expected["confusion"]
    assert any(p.startswith("Scored over 6 groups of videos") for p in outline.texts["p"])
    folder, *_ = grouped_folds(tmp_path / "videos", scored_on_groups=False)
    (run,) = report([folder], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    assert "num_groups" not in run.metrics and run.metrics["confusion"] == by_video["confusion"]


@BLANK
def test_frames_of_folds_are_pooled_as_well(tmp_path):
    for number in "12":
        evaluation = tmp_path / "run" / f"fold_{number}" / "evaluation"
        evaluation.mkdir(parents=True)
        outputs, labels = np.eye(3)[[0, 1, 1]], [0, 1, 2 if number == "1" else 1]
        frames = predictions_table([f"{number}.mp4"] * 3, outputs, NAMES, labels, more={"frame": [0, 1, 2]})
        frames.to_csv(evaluation / "frames.csv", index=False)
        table = predictions_table([f"{number}.mp4"], [outputs.mean(axis=0)], NAMES, [1])
        table.to_csv(evaluation / "predictions.csv", index=False)
    (run,) = report([tmp_path / "run"], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    assert run.metrics["frames"]["confusion"] == [[2, 0, 0], [0, 3, 0], [0, 1, 0]]
    assert run.metrics["war"] == 1.0
    _, outline = read_page(tmp_path / "report.html")
    assert ["sad", "100.00", "75.00", "85.71", "3"] in outline.rows


@BLANK
def test_folds_that_share_a_video_are_shown_but_not_pooled(tmp_path):
    folder = folds_of(tmp_path / "run", "unknown")
    file = folder / "fold_2/evaluation/predictions.csv"
    file.write_text(file.read_text().replace("2_3.mp4", "1_3.mp4"))
    (run,) = report([folder], ReportConfig(out=tmp_path / "report.html", maps=False, videos=0))
    _, outline = read_page(tmp_path / "report.html")
    assert run.metrics == {}
    assert any("1_3.mp4: is in the test parts of folds 1 and 2" in p for p in outline.texts["p"])
    war = json.loads((folder / "fold_10/evaluation/metrics.json").read_text())["war"]
    assert outline.row("fold 10")[2] == f"{100 * war:.2f}"


@BLANK
def test_names_that_look_like_numbers_or_markup_stay_text(tmp_path):
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    names = ["NA", "01", "<b>$x</b>"]
    table = predictions_table(["a", "b", "c"], np.eye(3) * 0.5 + 0.1, names, [0, 1, 2])
    table.insert(1, "subject", ["007", "", "007"])
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    metrics = classification_metrics([0, 1, 2], np.eye(3) * 0.5 + 0.1, names)
    write_metrics(folder / "evaluation/metrics.json", metrics)
    features = np.eye(3, dtype=np.float32)
    np.savez(folder / "evaluation/features.npz", features=features, paths=np.array(["a", "b", "c"]))
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    text, outline = read_page(tmp_path / "report.html")
    assert_self_contained(text, outline)
    assert "<b>" not in text
    assert [row[0] for row in outline.rows if row and row[0] in names] == names
    assert outline.row("the subject")[1:] == ["100.0", "100.0", "2"]  # the two of 007, which have only each other
    verdicts = {p for p in outline.texts["p"] if "given" in p}
    assert verdicts == {f"{name}, given 60.0%; predicted: {name} (60.0%)" for name in names}


def test_the_first_timeline_of_several_videos_is_shown(tmp_path):
    (tmp_path / "run/prediction").mkdir(parents=True)
    for k in range(1, 11):
        picture = cv2.imencode(".png", np.full((4, 4, 3), 10 * k, np.uint8))[1].tobytes()
        (tmp_path / f"run/prediction/affect_{k}_clip.png").write_bytes(picture)
    report([tmp_path / "run"], ReportConfig(out=tmp_path / "report.html"))
    _, outline = read_page(tmp_path / "report.html")
    assert outline.media("img") == [(tmp_path / "run/prediction/affect_1_clip.png").read_bytes()]
    assert outline.texts["figcaption"] == ["Affect over time in one video"]


@BLANK
def test_runs_of_the_same_name_are_distinguished_by_their_folder(tmp_path):
    runs = [tmp_path / parent / "run" for parent in ("a", "b")]
    for run in runs:
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("seed: 0\n")
    report(runs, ReportConfig(out=tmp_path / "report.html"))
    _, outline = read_page(tmp_path / "report.html")
    assert outline.texts["h2"][2:] == [f"run ({run})" for run in runs]


def test_a_step_without_a_loss_is_left_out_of_the_last_loss(tmp_path):
    folder = keep(fake_run(tmp_path / "run"), "log")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "epoch": 2, "step": 9999, "loss": null, "lr": 0.1, "grad_norm": null}\n')
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    cells = read_page(tmp_path / "report.html")[1].texts["td"]
    assert cells[cells.index("last training loss") + 1] == "1"


def test_an_incomplete_last_line_of_the_log_is_left_out(tmp_path):
    folder = keep(fake_run(tmp_path / "run"), "log")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "epoch": 7, "st')
    report([folder], ReportConfig(out=tmp_path / "report.html"))
    _, outline = read_page(tmp_path / "report.html")
    cells = outline.texts["td"]
    assert cells[cells.index("epochs trained") + 1] == "2"
    assert cells[cells.index("last training loss") + 1] == "1"


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("log.jsonl", '{"kind": "tr\n{"kind": "val", "epoch": 0}\n', "line 1 is not JSON"),
        ("log.jsonl", "17\n", "line 1 is not a JSON object"),
        ("metrics.json", "{", "cannot be read as JSON"),
        ("evaluation/metrics.json", "[1]", "must hold a JSON object"),
        ("evaluation/predictions.csv", "", "cannot be read as CSV"),
        ("evaluation/features.npz", "x", "cannot be read as features and paths"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content, message):
    folder = fake_run(tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(file)}: {message}"):
        report([folder], ReportConfig(out=tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_no_run_missing_run_and_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for runs, message in (
        ([], "name at least one"),
        ([tmp_path / "gone"], "gone: no such run folder"),
        ([tmp_path / "empty"], "empty: holds none of config.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            report(runs, ReportConfig(out=tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report([keep(fake_run(tmp_path / "run"), "config")], ReportConfig(out=tmp_path / "file" / "report.html"))
