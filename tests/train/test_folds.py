"""Cross-validation: pooling against scikit-learn and by hand, and whole runs that break off, go on, and are compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

import svfap
from svfap import signals
from svfap.cli.main import main
from svfap.data.prepared import Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.evaluation.config import PoolConfig
from svfap.evaluation.folds import IncompleteFolds, score_folds
from svfap.evaluation.metrics import flat_scores
from svfap.evaluation.pool import paper_numbers, pool, pool_evaluations, results_caption, results_table
from svfap.evaluation.predictions import predictions_table
from svfap.faces.detect import Face
from svfap.train import finetune as experiment
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune
from svfap.train.stop import StopRequest
from svfap.weights.published import save_published

pytestmark = pytest.mark.usefixtures("blank_figures")

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("happy", "sad", "fear")
TRAITS = ("arousal", "valence")


# pooling -------------------------------------------------------------------------------------------------------------


def prepared(folder: Path, tests: dict[str, pd.DataFrame], **words) -> PreparedDataset:
    """A dataset whose folds are tested on these manifests; no fold is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tests.items():
        table.to_csv(folder / f"test_{name}.csv", index=False)
    folds = tuple(Fold(name, Path(f"test_{name}.csv"), Path(f"test_{name}.csv")) for name in tests)
    defaults = {"name": "dfew", "title": "Faces", "task": "classification", "label_names": CLASSES}
    write_dataset_file(folder, PreparedDataset(**{**defaults, "root": Path("."), "folds": folds, **words}))
    return read_dataset(folder)


def classified(folder: Path, labels: dict[str, list[str]], groups: dict[str, list[str]] | None = None, **words):
    """Folds with these labels, random scores of theirs, and what `evaluate` would have written."""
    rng = np.random.default_rng(1)
    tests, folders, scores = {}, {}, {}
    for fold, names in labels.items():
        paths = [f"{fold}_{number}.mp4" for number in range(len(names))]
        tests[fold] = pd.DataFrame({"path": paths, "label": names})
        if groups:
            tests[fold]["group"] = groups[fold]
        scores[fold] = rng.dirichlet(np.ones(3), len(names))
        truth = [CLASSES.index(name) for name in names]
        folders[fold] = folder / f"fold_{fold}" / "evaluation"
        folders[fold].mkdir(parents=True)
        table = predictions_table(paths, scores[fold], CLASSES, truth)
        table.to_csv(folders[fold] / "predictions.csv", index=False)
    return prepared(folder / "data", tests, **words), folders, scores


LABELS = {"1": ["happy", "sad", "fear", "sad"] * 5, "2": ["happy", "sad", "fear"] * 4, "3": ["sad", "happy"] * 3}


def test_predictions_of_all_folds_are_scored_once(tmp_path):
    dataset, folders, scores = classified(tmp_path, LABELS)
    result = score_folds(dataset, folders)
    truth = [CLASSES.index(name) for names in LABELS.values() for name in names]
    predicted = np.concatenate(list(scores.values())).argmax(axis=1)
    assert result["pooled"]["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert result["pooled"]["war"] == pytest.approx(np.mean(predicted == truth))
    assert result["pooled"]["confusion"] == confusion_matrix(truth, predicted).tolist()
    assert (result["pooled"]["num_evaluated"], result["pooled"]["num_expected"]) == (38, 38)
    wars = [np.mean(s.argmax(axis=1) == [CLASSES.index(n) for n in LABELS[f]]) for f, s in scores.items()]
    assert [one["war"] for one in result["folds"].values()] == pytest.approx(wars)
    assert result["mean"]["war"] == pytest.approx(np.mean(wars))
    assert result["sd"]["war"] == pytest.approx(np.std(wars, ddof=1))
    assert result["pooled"]["war"] != pytest.approx(result["mean"]["war"])  # folds of different sizes
    assert result["incomplete"] == []


def test_a_class_that_a_fold_lacks_is_left_out_of_its_mean_and_told(tmp_path):
    dataset, folders, _ = classified(tmp_path, LABELS)
    result = score_folds(dataset, folders)
    own = [flat_scores(one).get("accuracy_fear") for one in result["folds"].values()]
    assert own[2] is None
    assert result["mean"]["accuracy_fear"] == pytest.approx(np.mean(own[:2]))
    assert result["notes"] == ["fold 3: no video of fear, which UAR leaves out"]
    shown = results_table(dataset, result, {}).set_index("score")
    assert shown.loc["fear, %", "fold 3"] == ""


def test_groups_are_scored_by_their_mean_scores_within_a_fold(tmp_path):
    labels = {"1": ["happy", "happy", "sad", "fear"], "2": ["sad", "sad", "happy", "fear"]}
    groups = {"1": ["a", "a", "b", ""], "2": ["a", "a", "b", ""]}
    dataset, folders, scores = classified(tmp_path, labels, groups, metrics=("weighted_f1",))
    result = score_folds(dataset, folders)
    means = [row for one in scores.values() for row in (one[:2].mean(axis=0), one[2], one[3])]
    expected = f1_score([0, 1, 2, 1, 0, 2], np.argmax(means, axis=1), average="weighted", zero_division=0)
    assert result["pooled"]["weighted_f1"] == pytest.approx(expected)
    assert (result["pooled"]["num_groups"], result["pooled"]["num_evaluated"]) == (6, 8)
    table = pd.read_csv(folders["1"] / "predictions.csv")
    table.loc[0, "label"] = "fear"
    table.to_csv(folders["1"] / "predictions.csv", index=False)
    with pytest.raises(UserError, match="group '1/a': its videos have several labels"):
        score_folds(dataset, folders)


@pytest.fixture
def regressed(tmp_path):
    """Two folds of two dimensions; the second fold's prediction of valence never varies."""
    rng = np.random.default_rng(2)
    truth, guess = {f: rng.normal(size=(9, 2)) for f in "12"}, {f: rng.normal(size=(9, 2)) for f in "12"}
    guess["2"][:, 1] = 0.25
    tests, folders = {}, {}
    for fold in "12":
        paths = [f"{fold}_{number}.mp4" for number in range(9)]
        tests[fold] = pd.DataFrame(truth[fold], columns=TRAITS).assign(path=paths)
        folders[fold] = tmp_path / fold
        folders[fold].mkdir()
        table = predictions_table(paths, guess[fold], TRAITS, truth[fold], "regression")
        table.to_csv(folders[fold] / "predictions.csv", index=False)
    words = {"task": "regression", "label_names": TRAITS, "metrics": ("pcc", "accuracy"), "name": "werewolf_xl"}
    return prepared(tmp_path / "data", tests, **words), folders, truth, guess


def test_dimensions_are_pooled_and_constant_predictions_count_as_zero(regressed):
    dataset, folders, truth, guess = regressed
    result = score_folds(dataset, folders)
    both, ours = (np.concatenate([part["1"], part["2"]]) for part in (truth, guess))
    flat = flat_scores(result["pooled"])
    assert flat["pcc_valence"] == pytest.approx(pearsonr(both[:, 1], ours[:, 1]).statistic)
    assert flat["accuracy_arousal"] == pytest.approx(1 - np.abs(both - ours)[:, 0].mean())
    alone = pearsonr(truth["1"][:, 1], guess["1"][:, 1]).statistic
    assert result["mean"]["pcc_valence"] == pytest.approx((alone + 0) / 2)
    assert result["notes"] == ["fold 2: truth or prediction of valence is constant, so PCC and CCC count as 0"]
    table = results_table(dataset, result, paper_numbers("werewolf_xl", "svfap_base")).set_index("score")
    assert list(table.index) == ["PCC arousal", "PCC valence", "PCC, mean", "1 − MAE arousal", "1 − MAE valence",
                                 "1 − MAE, mean", "videos"]  # fmt: skip
    assert table.loc["PCC valence", "paper, base"] == "0.6711"
    assert table.loc["PCC valence", "pooled"] == f"{flat['pcc_valence']:.4f}"
    assert table.loc["PCC, mean", "paper, base"] == ""
    assert table.loc["videos", "fold 2"] == "9 of 9"


def framed(folder: Path, clips: dict[str, list], **words):
    """Folds of videos (path, truth, outputs), with a row per frame, as a frame-level model's evaluation leaves them."""
    tests, folders = {}, {}
    names, task = words["label_names"], words["task"]
    for fold, videos in clips.items():
        folders[fold] = folder / fold
        folders[fold].mkdir(parents=True)
        paths = [path for path, *_ in videos]
        truth, said = ([np.array(video[k]) for video in videos] for k in (1, 2))
        clip = [t.mean(axis=0) if t.ndim == 2 else np.bincount(t).argmax() for t in truth]
        tests[fold] = pd.DataFrame({"path": paths, **({"label": names[0]} if task == "classification" else {})})
        if task == "regression":
            tests[fold][list(names)] = clip
        table = predictions_table(paths, [s.mean(axis=0) for s in said], names, np.array(clip), task)
        table.to_csv(folders[fold] / "predictions.csv", index=False)
        own = np.repeat(paths, [len(t) for t in truth]).tolist()
        table = predictions_table(own, np.concatenate(said), names, np.concatenate(truth), task)
        table.insert(1, "frame", np.concatenate([3 * np.arange(len(t)) for t in truth]))
        table.to_csv(folders[fold] / "frames.csv", index=False)
    return prepared(folder / "data", tests, frame_level=True, **words), folders


def test_frames_of_all_folds_are_scored_once_beside_the_videos(tmp_path):
    happy, sad = [0.9, 0.1], [0.2, 0.8]
    clips = {
        "1": [("a.mp4", [0, 0, 0, 1], [happy, happy, sad, happy]), ("b.mp4", [1], [happy])],
        "2": [("c.mp4", [1, 1, 0], [sad, sad, happy])],
    }
    dataset, folders = framed(tmp_path, clips, task="classification", label_names=("happy", "sad"))
    result = score_folds(dataset, folders)
    frames = result["pooled"]["frames"]
    assert frames["confusion"] == [[3, 1], [2, 2]]  # of 8 frames: happy 3 of 4, sad 2 of 4
    assert (frames["uar"], frames["war"], frames["num_samples"]) == (0.625, 0.625, 8)
    assert result["pooled"]["confusion"] == [[1, 0], [1, 1]]  # of 3 videos, by their mean over frames
    own = [one["frames"]["uar"] for one in result["folds"].values()]
    assert own == pytest.approx([(2 / 3 + 0) / 2, 1])
    assert result["mean"]["frame_uar"] == pytest.approx(2 / 3)  # not what pooling gives
    assert result["sd"]["frame_war"] == pytest.approx(np.std([0.4, 1], ddof=1))
    table = results_table(dataset, result, paper_numbers("dfew", "svfap_base")).set_index("score")
    assert table.loc["frames: UAR, %"].tolist() == [
        *("62.50", "[0.00, 100.00]", "66.67", "47.14", "", "", "33.33", "100.00")
    ]
    assert table.loc["frames: sad, %", "pooled"] == "50.00"
    assert table.loc[["videos", "frames"], "pooled"].tolist() == ["3 of 3", "8"]
    assert "rows of frames score every frame that the model was shown once" in results_caption(dataset, result)


def test_values_of_frames_are_pooled_and_constant_ones_told(tmp_path):
    """CCC by hand: truth 0 1 2 and 5, prediction 1 1 1 and 5, so both have the mean 2; var 3.5 and 3, covariance 3."""
    clips = {"1": [("a.mp4", [[0.0], [1.0], [2.0]], [[1.0]] * 3)], "2": [("b.mp4", [[5.0]], [[5.0]])]}
    words = {"task": "regression", "label_names": ("v",), "metrics": ("ccc", "mae")}
    dataset, folders = framed(tmp_path, clips, **words)
    result = score_folds(dataset, folders)
    flat = flat_scores(result["pooled"])
    assert flat["frame_ccc"] == flat["frame_ccc_v"] == pytest.approx(2 * 3 / (3.5 + 3))
    assert (flat["frame_mae"], flat["mae"]) == (0.5, 0)
    assert result["pooled"]["frames"]["num_videos"] == 2
    assert result["folds"]["1"]["frames"]["ccc"] == 0
    assert "fold 1, frames: truth or prediction of v is constant, so PCC and CCC count as 0" in result["notes"]
    table = results_table(dataset, result, {}).set_index("score")
    assert table.loc["frames: CCC, mean", "pooled"] == f"{6 / 6.5:.4f}"


def test_frames_that_do_not_fit_are_refused_and_missing_ones_told(tmp_path):
    clips = {fold: [(f"{fold}.mp4", [0, 1], [[0.9, 0.1]] * 2)] for fold in "12"}
    dataset, folders = framed(tmp_path, clips, task="classification", label_names=("happy", "sad"))
    file = folders["2"] / "frames.csv"
    table = pd.read_csv(file)
    not_those = "its frames are not those of predictions"
    for wrong, message in (
        (table.assign(frame=0), "has several rows of path 2.mp4, frame 0"),
        (table.assign(path="1.mp4"), not_those),
        (table[:0], not_those),
    ):
        wrong.to_csv(file, index=False)
        with pytest.raises(UserError, match=rf"frames\.csv: {message}"):
            score_folds(dataset, folders)
    file.unlink()
    with pytest.raises(UserError, match="fold 2: has no frames.csv as the other folds have"):
        score_folds(dataset, folders)
    (folders["1"] / "frames.csv").unlink()
    assert "no evaluation has a frames.csv, so frames are not scored" in score_folds(dataset, folders)["notes"]


def test_an_incomplete_set_is_refused_and_named(tmp_path):
    dataset, folders, _ = classified(tmp_path, LABELS)
    shutil.rmtree(folders["2"])
    table = pd.read_csv(folders["1"] / "predictions.csv")
    table.drop(index=[3, 7]).to_csv(folders["1"] / "predictions.csv", index=False)
    with pytest.raises(IncompleteFolds) as refused:
        score_folds(dataset, folders)
    assert "fold 1: 2 of 20 videos could not be read" in str(refused.value)
    assert "fold 2 is not evaluated" in str(refused.value)
    assert "--allow_incomplete true" in str(refused.value)
    result = score_folds(dataset, folders, allow_incomplete=True)
    assert (result["pooled"]["num_evaluated"], result["pooled"]["num_expected"]) == (24, 38)
    assert len(result["incomplete"]) == 2
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(UserError, match="nothing to pool"):
        score_folds(dataset, folders, allow_incomplete=True)


def test_what_does_not_belong_together_is_refused(tmp_path):
    dataset, folders, _ = classified(tmp_path / "a", LABELS)
    other = {**folders, "1": folders["2"]}
    with pytest.raises(UserError, match=r"2_0\.mp4 is not in .*test_1\.csv"):
        score_folds(dataset, other)
    file = folders["3"] / "predictions.csv"
    pd.read_csv(file).rename(columns={"prob_fear": "prob_anger"}).to_csv(file, index=False)
    with pytest.raises(UserError, match="has no column prob_fear"):
        score_folds(dataset, folders)
    manifest = pd.read_csv(tmp_path / "a" / "data" / "test_1.csv")
    twice = prepared(tmp_path / "b", {"1": manifest, "2": manifest})
    with pytest.raises(UserError, match=r"1_0\.mp4: is in the test parts of folds 1 and 2"):
        score_folds(twice, {"1": folders["1"], "2": folders["1"]})


def test_a_single_fold_has_no_spread(tmp_path):
    dataset, folders, _ = classified(tmp_path, {"1": LABELS["1"]})
    result = score_folds(dataset, folders)
    assert result["sd"] == {}
    assert list(results_table(dataset, result, paper_numbers("dfew", "svfap_small")).columns) == [
        *("score", "pooled", "95% interval", "paper, small", "released")
    ]


def test_the_papers_numbers_are_those_of_the_size():
    assert paper_numbers("dfew", "svfap_base") == {
        "svfap_base": {"uar": 0.6283, "war": 0.7427},
        "released": {"uar": 0.6389, "war": 0.7481},
    }
    assert list(paper_numbers("ravdess", "svfap_tiny")) == ["svfap_small", "svfap_base"]
    assert paper_numbers("synth", "svfap_base") == {}


# runs ----------------------------------------------------------------------------------------------------------------

QUICK = ["--preset", "svfap_debug", "--sampling_stride", "1", "--warmup_epochs", "0", "--batch_size", "6"]
QUICK += ["--num_workers", "0", "--precision", "fp32", "--base_lr", "2", "--init", "null"]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Path:
    """A dataset of two folds, six videos each."""
    folder = tmp_path_factory.mktemp("miniature")
    rng = np.random.default_rng(0)
    parts = {}
    for fold in "12":
        rows = [{"path": f"{fold}_{n}.mp4", "label": CLASSES[n % 3]} for n in range(6)]
        for row in rows:
            write_video(
                folder / row["path"], rng.integers(0, 255, (18, 32, 32, 3), np.uint8), fps=25, preset="ultrafast"
            )
        parts[fold] = pd.DataFrame(rows)
        parts[fold].to_csv(folder / f"part_{fold}.csv", index=False)
    folds = (Fold("1", Path("part_2.csv"), Path("part_1.csv")), Fold("2", Path("part_1.csv"), Path("part_2.csv")))
    words = {"task": "classification", "label_names": CLASSES, "metrics": ("uar", "war"), "sampling_stride": 1}
    write_dataset_file(folder, PreparedDataset("ravdess", "Faces", root=Path("."), folds=folds, **words))
    return folder


def cross_validate(miniature: Path, out: Path, *flags: str) -> list[str]:
    return ["finetune", "--dataset", str(miniature), "--out", str(out), "--fold", "all", *QUICK, *flags]


@pytest.fixture(scope="module")
def finished(miniature, tmp_path_factory) -> Path:
    """Both folds trained and tested by the command, one after the other."""
    out = tmp_path_factory.mktemp("runs") / "all"
    assert main(cross_validate(miniature, out, "--epochs", "1")) == 0
    return out


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("fold_*/*/*")}


def test_all_folds_end_in_the_pooled_table(finished, capsys):
    tables = [pd.read_csv(finished / f"fold_{fold}" / "evaluation" / "predictions.csv") for fold in "12"]
    assert [list(table["path"]) for table in tables] == [[f"{fold}_{n}.mp4" for n in range(6)] for fold in "12"]
    both = pd.concat(tables)
    numbers = json.loads((finished / "results.json").read_text())
    assert numbers["pooled"]["war"] == pytest.approx((both["label"] == both["prediction"]).mean())
    truth, said = ([CLASSES.index(name) for name in both[column]] for column in ("label", "prediction"))
    assert numbers["pooled"]["confusion"] == confusion_matrix(truth, said, labels=range(3)).tolist()
    assert main(["pool", str(finished)]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(finished / "results.csv", dtype=str, keep_default_na=False).set_index("score")
    assert table.loc["WAR, %", "pooled"] == f"{100 * numbers['pooled']['war']:.2f}"
    assert table.loc["UAR, %", "paper, base"] == "75.15"  # no size of the paper's, so both stand there
    assert table.loc["UAR, %", "paper, small"] == "73.59"
    assert table.loc["videos", "pooled"] == "12 of 12"
    shown = [
        c for c in table.columns if not c.startswith(("fold", "mean", "sd"))
    ]  # the files alone have those of folds
    for cell in (*table.index, *shown, *table["pooled"]):
        assert cell in printed
        assert cell in (finished / "results.md").read_text()
    assert r"12 of 12 &" in (finished / "results.tex").read_text()


def test_python_gets_the_pooled_table(miniature, finished):
    before = written(finished)
    settings = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0, batch_size=6, num_workers=0, base_lr=2)
    config = FinetuneConfig(**settings, dataset=miniature, out=finished, fold="all", precision="fp32", epochs=1)
    with pytest.raises(UserError, match="holds folds already"):
        finetune(config)
    result = finetune(replace(config, resume=True))
    assert result.finished
    assert result.metrics == json.loads((finished / "results.json").read_text())
    assert result.pooled.table["score"].tolist() == pd.read_csv(finished / "results.csv")["score"].tolist()
    after = written(finished)
    assert {name: after[name] for name in before} == before


def test_finished_folds_are_kept_and_one_that_broke_off_goes_on(miniature, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    command = cross_validate(miniature, out, "--epochs", "2")
    train = experiment.finetune

    def broken_off(config):
        if config.fold == "2":
            train(replace_epochs(config))
            raise KeyboardInterrupt
        return train(config)

    def replace_epochs(config):  # ends after the first of two epochs, as a stopped run would
        monkeypatch.setattr("svfap.train.loop.stop_request", stopped)
        return config

    monkeypatch.setattr(experiment, "finetune", broken_off)
    assert main(command) == 130
    assert "stopped: 1 of 2 folds are finished" in capsys.readouterr().err
    monkeypatch.undo()
    assert not (out / "results.md").exists()
    assert not (out / "fold_2" / "metrics.json").exists()
    before = written(out / ".")
    with pytest.raises(IncompleteFolds, match="fold 2 is not evaluated"):
        pool_evaluations(out)
    assert main(command) == 1
    assert "holds folds already (1, 2); --resume goes on" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (out / "fold_2" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 1, 2, 2]  # a step and a validation for each epoch, none of them twice
    after = written(out)
    kept = {name: when for name, when in before.items() if name.startswith("fold_1")}
    assert len(kept) > 8
    assert {name: after[name] for name in kept} == kept
    assert (out / "results.md").exists()
    assert main([*command, "--resume", "--base_lr", "0.5"]) == 1
    assert "was made with other settings (base_lr" in capsys.readouterr().err


def stopped():
    """What stands for `stop_request` when a stop is asked for in the first step."""
    stop = StopRequest()
    stop.at_once = contextlib.nullcontext
    stop.ask(signal.SIGINT, None)
    return contextlib.nullcontext(stop)


def test_models_from_elsewhere_are_tested_and_pooled(miniature, finished, tmp_path, capsys):
    words = ["--dataset", str(miniature), "--out", str(tmp_path / "again"), "--precision", "fp32"]
    command = ["pool", "--models", str(finished / "fold_{fold}"), *words]
    assert main(command) == 0
    numbers, again = (json.loads((f / "results.json").read_text()) for f in (finished, tmp_path / "again"))
    assert again["pooled"] == numbers["pooled"]
    assert pool(PoolConfig(out=tmp_path / "again")).numbers["pooled"] == numbers["pooled"]
    before = written(tmp_path / "again")
    assert main(command) == 0
    assert written(tmp_path / "again") == before
    assert "holds the evaluation of" in capsys.readouterr().err
    swapped = tmp_path / "swapped"
    for fold, other in ("12", "21"):
        shutil.copytree(finished / f"fold_{fold}" / "best", swapped / other)
    assert (
        main(["pool", "--models", str(swapped / "{fold}"), *words]) == 0
    )  # in the same folder, and not kept from before
    assert {**written(tmp_path / "again"), **before} != written(tmp_path / "again")
    for fold in "12":
        metrics = json.loads((tmp_path / "again" / f"fold_{fold}" / "evaluation" / "metrics.json").read_text())
        assert metrics["model"] == str(swapped / fold)


def test_unreadable_videos_stop_the_pooling_and_are_told(miniature, finished, tmp_path, capsys):
    data = shutil.copytree(miniature, tmp_path / "data")
    (data / "1_3.mp4").write_bytes(b"no video")
    words = ["--models", str(finished / "fold_{fold}"), "--dataset", str(data), "--out", str(tmp_path / "out")]
    assert main(["pool", *words]) == 1
    error = capsys.readouterr().err
    assert "fold 1: 1 of 6 videos could not be read" in error
    assert not (tmp_path / "out" / "results.md").exists()
    assert main(["pool", str(tmp_path / "out"), "--allow_incomplete", "true"]) == 0
    assert "INCOMPLETE: fold 1: 1 of 6 videos could not be read" in (tmp_path / "out" / "results.md").read_text()
    assert "| videos | 11 of 12 |" in (tmp_path / "out" / "results.md").read_text()
    assert main(["pool", *words, "--allow_incomplete", "true"]) == 0
    assert capsys.readouterr().err.count("holds the evaluation of") == 2
    shutil.copy(miniature / "1_3.mp4", data / "1_3.mp4")
    assert main(["pool", *words]) == 0  # the mended video is looked at, and no other fold's
    assert capsys.readouterr().err.count("holds the evaluation of") == 1
    assert "| videos | 12 of 12 |" in (tmp_path / "out" / "results.md").read_text()


def test_a_resumed_run_tests_a_fold_again_whose_videos_were_mended(miniature, tmp_path, capsys):
    data = shutil.copytree(miniature, tmp_path / "data")
    (data / "1_3.mp4").write_bytes(b"no video")
    command = cross_validate(data, tmp_path / "run", "--epochs", "1", "--max_unreadable", "0.5")
    assert main(command) == 1
    assert "fold 1: 1 of 6 videos could not be read" in capsys.readouterr().err
    shutil.copy(miniature / "1_3.mp4", data / "1_3.mp4")
    assert main([*command, "--resume"]) == 0
    assert "| videos | 12 of 12 |" in (tmp_path / "run" / "results.md").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": "x"}'])
def test_a_damaged_folder_of_folds_is_told(text, tmp_path):
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(UserError, match=r"folds\.json: is damaged"):
        pool_evaluations(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool"], "give either the folder of a run, or --models"),
        (["pool", "nowhere"], "nowhere: holds no folds.json"),
        (["pool", "nowhere", "--out", "OUT"], "--out: goes with --models"),
        (["pool", "nowhere", "--models", "m", "--out", "OUT", "--dataset", "DATA"], "give either the folder of a run"),
        (["pool", "--models", "m/{fold}"], "--models: need --dataset"),
        (["pool", "--models", "same", "--dataset", "DATA", "--out", "OUT"], "must hold {fold}"),
        (["finetune", "--fold", "all", "--manifest", "m.csv", "--out", "OUT"], "--fold=all: give --dataset"),
        (["finetune", "--dataset", "DATA", "--out", "OUT", "--parallel", "2"], "goes with --fold all"),
        (["finetune", "--fold", "all", "--dataset", "DATA", "--out", "OUT", "--val_manifest", "v.csv"], "val_manifest"),
    ],
)
def test_mistakes_are_one_line(words, message, miniature, tmp_path, capsys):
    places = {"DATA": str(miniature), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_stop_reaches_parallel_folds_and_both_go_on(miniature, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "run"
    command = cross_validate(miniature, out, "--epochs", "9")
    states = [out / f"fold_{fold}" / "last" / "state.json" for fold in "12"]
    ended = threading.Event()

    def stop_once_both_train() -> None:
        while not all(state.exists() for state in states) and not ended.wait(0.02):
            pass
        if signal.getsignal(signal.SIGTERM) is signals.interrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # to the first process alone: it must pass it on

    stopper = threading.Thread(target=stop_once_both_train)
    stopper.start()
    try:
        assert main([*command, "--parallel", "2"]) == 128 + signal.SIGTERM
    finally:
        ended.set()
        stopper.join()
    assert "folds are finished in" in capsys.readouterr().err
    stopped = [state for state in states if json.loads(state.read_text())["step"] < 9]
    assert stopped
    for state in stopped:
        assert "Continue with --resume" in (state.parents[1] / "output.log").read_text()
    assert main([*command, "--resume"]) == 0
    for fold in "12":
        log = [json.loads(line) for line in (out / f"fold_{fold}" / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log if line["kind"] == "train"] == list(range(1, 10))
    assert (out / "results.tex").exists()


# the document --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_road_is_as_the_document_says(tmp_path, monkeypatch, capsys):
    """Runs the very commands of docs/from_download_to_table.md on a CREMA-D in miniature, quickly."""
    rng = np.random.default_rng(0)
    clips = tmp_path / "downloads" / "CREMA-D" / "VideoFlash"
    clips.mkdir(parents=True)
    for actor in (1001, 1002, 1019, 1020, 1037, 1055, 1073):
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")[: 3 if actor % 2 else 6]:
            picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
            write_video(clips / f"{actor}_DFA_{emotion}_XX.mp4", [picture] * 17, fps=25, preset="ultrafast")
    for module in ("crop", "dataset"):
        monkeypatch.setattr(f"svfap.crop.{module}.make_detector", lambda name, model=None: FaceEverywhere())
    monkeypatch.chdir(tmp_path)
    weights = svfap.create_model("svfap_debug", "pretraining")
    save_published(weights, Path("downloads/pretrained.pth"))
    text = (ROOT / "docs" / "from_download_to_table.md").read_text()
    commands = re.findall(r"^    (?:for fold in 1 2 3 4 5; do )?svfap (.*?)(?:; done)?$", text, re.MULTILINE)
    verbs = [command.split()[0] for command in commands]
    assert verbs == ["convert", "prepare", "crop", "finetune", "finetune", "report", "pool", "convert", "pool"]
    quick = {"convert": ["--decoder_num_heads", "2", "--num_heads", "2", "--img_size", "32", "--num_frames", "16"]}
    quick["prepare"] = ["--allow_missing", "true"]  # seven actors are not the official count
    quick["crop"] = ["--num_workers", "0", "--size_px", "32"]
    quick["finetune"] = [*QUICK[:-2], "--epochs", "1"]
    quick["report"] = ["--maps", "false"]
    released_dfew(tmp_path)
    for verb, command in zip(verbs, commands, strict=True):
        for fold in "12345" if "$fold" in command else "1":
            words = [*shlex.split(command.replace("$fold", fold)), *quick.get(verb, [])]
            assert main(words) == 0, (words, capsys.readouterr().err)
        if verb == "finetune":
            shutil.rmtree("runs/crema_d/fold_5/evaluation")  # so that --resume and pool have something to do
    assert [fold.name for fold in read_dataset("cropped/crema_d").folds] == ["1", "2", "3", "4", "5"]
    shown = {
        n: pd.read_csv(f"runs/{n}/results.csv", dtype=str).set_index("score") for n in ("crema_d", "dfew_released")
    }
    assert shown["crema_d"].loc["UAR, %", "paper, base"] == "77.31"
    assert shown["crema_d"].loc["videos", "pooled"] == "27 of 27"
    assert shown["dfew_released"].loc[["UAR, %", "WAR, %"], "released"].tolist() == ["63.89", "74.81"]
    assert "<html" in Path("runs/crema_d/report.html").read_text()


class FaceEverywhere:
    """A detector that finds one face in the middle of every picture."""

    name = "haar"

    def detect(self, frame: np.ndarray) -> list[Face]:
        height, width = frame.shape[:2]
        return [
            Face((width * 0.1875, height * 0.1875, width / 1.6, height / 1.6), 0.9)
        ]  # a crop with its margin is the picture


def released_dfew(folder: Path) -> None:
    """A DFEW of a video a fold, and checkpoints in the authors' format."""
    names = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    out = folder / "prepared" / "dfew"
    out.mkdir(parents=True)
    for number in range(1, 6):
        write_video(out / f"{number}.mp4", np.full((17, 32, 32, 3), 99, np.uint8), fps=25, preset="ultrafast")
        (out / f"{number}.csv").write_text(f"path,label\n{number}.mp4,{names[number]}\n")
        model = svfap.create_model("svfap_debug", "classification", label_names=names)
        save_published(model, folder / "downloads" / f"dfew_fold_{number}.pth")
    folds = tuple(Fold(str(n), Path(f"{n}.csv"), Path(f"{n}.csv")) for n in range(1, 6))
    write_dataset_file(out, PreparedDataset("dfew", "DFEW", "classification", Path("."), names, folds))
