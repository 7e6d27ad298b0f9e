"""Evaluation beyond one model on its own classes: ensembles, mirrored views, other labels, and scores by a column."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import svfap
from svfap.cli.main import main
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.label_map import read_label_map
from svfap.evaluation.metrics import classification_metrics

pytestmark = pytest.mark.usefixtures("blank_figures")

LABELS = ("surprise", "happy", "fear", "angry", "sad", "neutral", "disgust")
PROBABILITIES = [f"prob_{name}" for name in LABELS]


def saved(folder: Path, seed: int, names=LABELS, task: str = "classification", **more) -> Path:
    torch.manual_seed(seed)
    made = svfap.create_model("svfap_debug", task, label_names=names, num_outputs=len(names), sampling_stride=1, **more)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        saved(folder / name, seed)
    turned = svfap.load_model(folder / "b")
    order = [6, 5, 4, 3, 2, 1, 0]
    with torch.no_grad():
        turned.head.weight.copy_(turned.head.weight[order])
        turned.head.bias.copy_(turned.head.bias[order])
    from dataclasses import replace

    turned.config = replace(turned.config, label_names=LABELS[::-1])
    turned.save_pretrained(folder / "turned")
    return folder


def run(model, manifest: Path, out: Path, **more) -> tuple[dict, pd.DataFrame]:
    given = [str(each) for each in model] if isinstance(model, list) else str(model)
    evaluate(EvaluateConfig(model=given, manifest=manifest, out=out, precision="fp32", num_segments=1, **more))
    return json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "predictions.csv")


def test_an_ensemble_is_the_mean_of_its_models_whatever_the_order_of_their_classes(models, faces, tmp_path):
    test = faces / "test.csv"
    alone = [run(models / name, test, tmp_path / name)[1] for name in ("a", "b")]
    wanted = np.mean([table[PROBABILITIES].to_numpy() for table in alone], axis=0)
    for number, second in enumerate(("b", "turned")):
        metrics, table = run([models / "a", models / second], test, tmp_path / f"both{number}")
        np.testing.assert_allclose(table[PROBABILITIES], wanted, atol=1e-6)
        assert table["prediction"].tolist() == [LABELS[i] for i in wanted.argmax(axis=1)]
        assert metrics["model"] == [str(models / "a"), str(models / second)] and len(metrics["weights"]) == 2
        assert not (tmp_path / f"both{number}" / "features.npz").exists()
    labels = [LABELS.index(name) for name in table["label"]]
    assert metrics["uar"] == pytest.approx(classification_metrics(labels, wanted, LABELS)["uar"])


def test_an_ensemble_leaves_out_videos_that_one_cannot_read_and_says_so(models, faces, tmp_path):
    """A video of 3 frames is too short for nobody; one that is no video is for all."""
    lines = (faces / "test.csv").read_text().splitlines()
    (tmp_path / "no.mp4").write_text("no video")
    broken = ",".join(["no.mp4", *lines[1].split(",")[1:]])
    (tmp_path / "m.csv").write_text("\n".join([lines[0], broken, *lines[2:]]) + "\n")
    for line in lines[2:]:
        target = tmp_path / line.split(",")[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(faces / line.split(",")[0])
    metrics, table = run([models / "a", models / "b"], tmp_path / "m.csv", tmp_path / "out")
    assert (metrics["num_expected"], metrics["num_evaluated"], len(table)) == (14, 13, 13)
    assert "no.mp4" in (tmp_path / "out" / "unreadable.csv").read_text()


def test_models_that_predict_other_things_are_no_ensemble(models, faces, tmp_path):
    other = saved(tmp_path / "other", 0, ("x", "y"))
    with pytest.raises(UserError, match=r"other: predicts x, y, and .*a surprise, .*; an ensemble predicts one thing"):
        run([models / "a", other], faces / "test.csv", tmp_path / "out")
    with pytest.raises(UserError, match="out: give a folder for the results of an ensemble"):
        EvaluateConfig(model=[str(models / "a"), str(models / "b")], manifest=faces / "test.csv")
    with pytest.raises(UserError, match="a is given twice; each model of an ensemble counts once"):
        EvaluateConfig(model=[str(models / "a"), str(models / "a")], manifest=faces / "test.csv", out=tmp_path)
    with pytest.raises(UserError, match="a/ is given twice; each model of an ensemble counts once"):
        EvaluateConfig(model=[str(models / "a"), f"{models / 'a'}/"], manifest=faces / "test.csv", out=tmp_path)
    shutil.copytree(models / "a", tmp_path / "run" / "best")
    with pytest.raises(UserError, match="run: has the same weights as .*a; each model of an ensemble counts once"):
        run([models / "a", tmp_path / "run"], faces / "test.csv", tmp_path / "out")
    with pytest.raises(UserError, match="an ensemble has no run"):
        EvaluateConfig(model=[str(models / "a"), str(models / "b")], out=tmp_path)


def test_several_models_are_given_as_words(models, faces, tmp_path, capsys):
    chosen = [str(models / "a"), str(models / "b")]
    command = ["evaluate", "--manifest", str(faces / "test.csv"), "--out", str(tmp_path), "--num_segments", "1"]
    assert main([*command, "--model", *chosen, "--score_by", "subject"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["model"] == chosen
    assert "subject" in capsys.readouterr().out
    (tmp_path / "by_hand.csv").write_text("kept")
    assert main([*command, f"--model=[{chosen[0]}, {chosen[1]}]"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["model"] == chosen
    assert not (tmp_path / "by_subject.csv").exists()  # of the evaluation before
    assert (tmp_path / "by_hand.csv").read_text() == "kept"
    assert main([*command, "--model", chosen[0]]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["model"] == chosen[0]


def test_mirrored_views_are_averaged(models, faces, tmp_path):
    """A model sees a face and its mirror image: then both orders give the same."""
    _, once = run(models / "a", faces / "test.csv", tmp_path / "once")
    metrics, both = run(models / "a", faces / "test.csv", tmp_path / "both", flip=True)
    assert metrics["settings"]["flip"] and not np.allclose(once[PROBABILITIES], both[PROBABILITIES], atol=1e-4)
    clip = torch.rand(2, 3, 16, 32, 32)
    model = svfap.load_model(models / "a").eval()
    from svfap.evaluation.views import reader_of

    read = reader_of(model.outputs_and_features, torch.eye(7), True, "classification")
    with torch.inference_mode():
        (one, features), (other, _) = read(clip), read(clip.flip(-1))
        torch.testing.assert_close(one, other)
        wanted = (model(clip).softmax(-1) + model(clip.flip(-1)).softmax(-1)) / 2
        torch.testing.assert_close(one.softmax(-1), wanted)
        assert features.shape == model.features(clip).shape
        with torch.autocast("cpu", torch.bfloat16):
            same = reader_of(lambda _: (wanted, features), torch.eye(7), False, "regression")(clip)[0]
        assert torch.equal(same, wanted)  # not rounded to bf16


# other labels ----------------------------------------------------------------------------------------------------------


def test_labels_of_another_dataset_stand_for_the_models_classes(models, faces, tmp_path):
    table = pd.read_csv(faces / "test.csv")
    names = {"happy": "Happiness", "angry": "ANG", "surprise": "contempt"}
    table["label"] = table["label"].replace(names)
    for column in ("path", "frame_values"):
        if column in table:
            table[column] = [str(faces / name) for name in table[column]]
    table[table["label"] != "disgust"].to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(UserError, match="is not a known label"):
        run(models / "a", tmp_path / "m.csv", tmp_path / "out")
    metrics, found = run(models / "a", tmp_path / "m.csv", tmp_path / "out", label_map="auto")
    assert (
        metrics["left_out"] == {"contempt": 2}
        and metrics["num_expected"] == 10
        and metrics["settings"]["label_map"] == "auto"
    )
    shown = [name.removeprefix("prob_") for name in found if name.startswith("prob_")]
    assert shown == ["happy", "fear", "angry", "sad", "neutral"]  # no label stands for surprise and disgust
    assert set(found["label"]) == set(shown)
    _, plain = run(models / "a", faces / "test.csv", tmp_path / "plain")
    rows = plain[plain["label"].isin(shown)][[f"prob_{name}" for name in shown]].to_numpy()
    np.testing.assert_allclose(
        found[[f"prob_{name}" for name in shown]], rows / rows.sum(axis=1, keepdims=True), atol=1e-5
    )


def test_a_map_adds_up_outputs(models, faces, tmp_path):
    (tmp_path / "map.yaml").write_text(
        "labels: {happy: good, sad: bad, angry: bad, fear: bad, disgust: bad, surprise: null, neutral: null}\n"
        "outputs: {happy: good, surprise: good, neutral: null, sad: bad, angry: bad, fear: bad, disgust: bad}\n"
    )
    metrics, found = run(models / "a", faces / "test.csv", tmp_path / "out", label_map=str(tmp_path / "map.yaml"))
    _, plain = run(models / "a", faces / "test.csv", tmp_path / "plain")
    plain = plain[~plain["label"].isin(["surprise", "neutral"])]
    good = plain["prob_happy"] + plain["prob_surprise"]
    np.testing.assert_allclose(found["prob_good"], good / (1 - plain["prob_neutral"]), atol=1e-5)
    assert metrics["left_out"] == {"neutral": 2, "surprise": 2} and metrics["num_samples"] == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: {joy: x}", "`labels`: 'joy' is not a label of the test set; known are p, q"),
        ("outputs: {joy: x}", "`outputs`: 'joy' is not a class of the model; known are x, y"),
        ("labels: {p: x}", "label 'q' stands for 'q', which is none of the classes that are scored, x, y; write"),
        ("labels: {p: x, q: null}", "the labels p, q stand for a single class, 'x'; at least two"),
        ("labels: {p: null, q: null}", "the labels p, q stand for no class; at least two are needed"),
        ("labels: {no: x, q: y}", "`labels`: YAML reads names such as yes, no, on, off as true or false, here as"),
        ("outputs: {x: yes}", "`outputs`: YAML reads names such as yes, no, on, off as true or false, here as true; put them in"),
        ("labels: [p]", "`labels` must map names to names"),
        ("label: {p: x}", "'label' is neither `labels` nor `outputs`"),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit(text, message, tmp_path):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_label_map(str(tmp_path / "map.yaml"), ["p", "q"], ["x", "y"])


def test_emotions_of_the_known_datasets():
    from svfap.datasets.dataset import get_dataset

    dfew, crema, mafw = (get_dataset(name).label_names for name in ("dfew", "crema_d", "mafw"))
    found = read_label_map("auto", crema, dfew)
    assert all(found.of_label.values()) and found.of_output["surprise"] is None and len(found.classes) == 6
    found = read_label_map("auto", mafw, dfew)
    assert {label for label, target in found.of_label.items() if target is None} == {
        "contempt", "anxiety", "helplessness", "disappointment",
    }  # fmt: skip
    assert len(found.classes) == 7
    for name in ("ferv39k", "ravdess", "enterface05"):
        assert len(read_label_map("auto", get_dataset(name).label_names, dfew).classes) >= 6
    with pytest.raises(UserError, match="stand for no class; at least two are needed, and the model has happy"):
        read_label_map("auto", ["yes", "no"], dfew)


def test_a_label_map_is_for_classes_of_videos(faces, tmp_path):
    values = saved(tmp_path / "values", 0, ("valence", "arousal"), "regression")
    with pytest.raises(UserError, match="label_map: is for classes of whole videos"):
        run(values, faces / "test.csv", tmp_path / "out", label_map="auto")
    with pytest.raises(UserError, match=r"label_map=none\.yaml: no such file"):
        EvaluateConfig(model=str(values), manifest=faces / "test.csv", label_map="none.yaml")


# by a column -----------------------------------------------------------------------------------------------------------


def test_scores_by_a_column_are_those_of_its_videos(models, faces, tmp_path):
    table = pd.read_csv(faces / "test.csv")
    table["path"] = [str(faces / name) for name in table["path"]]
    table["gender"] = ["f", "m"] * 7
    table.to_csv(tmp_path / "m.csv", index=False)
    metrics, found = run(models / "a", tmp_path / "m.csv", tmp_path / "out", score_by=["gender", "subject"])
    assert found["gender"].tolist() == table["gender"].tolist()
    assert sum(each["num_evaluated"] for each in metrics["score_by"]["gender"].values()) == 14
    for value in "fm":
        rows = found[found["gender"] == value]
        known = classification_metrics([LABELS.index(name) for name in rows["label"]], rows[PROBABILITIES], LABELS)
        assert metrics["score_by"]["gender"][value]["uar"] == pytest.approx(known["uar"])
    written = pd.read_csv(tmp_path / "out" / "by_gender.csv", dtype=str)
    assert written["gender"].tolist() == ["f", "m"] and written["videos"].tolist() == ["7", "7"]
    assert len(metrics["score_by"]["subject"]) == table["subject"].nunique()
    with pytest.raises(UserError, match=r"'prob_x' is a column of predictions\.csv; rename that of"):
        run(models / "a", tmp_path / "m.csv", tmp_path / "out", score_by="prob_x")
    table.assign(**{"a/b": "x"}).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(UserError, match="the table of column 'a/b' is a file by_NAME, so NAME may have no /"):
        run(models / "a", tmp_path / "n.csv", tmp_path / "out", score_by="a/b")
    table.assign(label="happy", group=["g0"] * 7 + ["g1"] * 7).to_csv(tmp_path / "h.csv", index=False)
    with pytest.raises(UserError, match=r"column 'gender' of .* divides group 'g0' \('f', 'm'\).* give by_group=false"):
        run(models / "a", tmp_path / "h.csv", tmp_path / "out", score_by="gender")
    assert run(models / "a", tmp_path / "h.csv", tmp_path / "out", score_by="gender", by_group=False)[0]["score_by"]
    with pytest.raises(UserError, match="has no column 'age'; it has path"):
        run(models / "a", tmp_path / "m.csv", tmp_path / "out", score_by="age")


def test_too_many_values_are_refused(models, faces, tmp_path, monkeypatch):
    monkeypatch.setattr("svfap.evaluation.evaluation_set.MOST_VALUES", 5)
    with pytest.raises(UserError, match="column 'path' of .* has 14 values, more than 5"):
        run(models / "a", faces / "test.csv", tmp_path / "out", score_by="path")
    assert len(read_manifest(faces / "test.csv")) == 14
