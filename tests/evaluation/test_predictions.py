"""The predictions tables: written, read back unchanged, and scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from svfap.errors import UserError
from svfap.evaluation.confidence import interval_note
from svfap.evaluation.predictions import (
    EvaluationPredictions,
    drawn_units,
    group_table,
    labelled_outputs,
    predictions_table,
    read_features,
    read_predictions,
    score_predictions,
    task_and_names,
    write_csv,
    write_features,
)

NAMES = ["a", "b", "c"]


def test_predictions_table_of_classification():
    table = predictions_table([Path("v/1.mp4"), "v/2.mp4"], [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], NAMES, [1, 2])
    assert list(table.columns) == ["path", "label", "prediction", "prob_a", "prob_b", "prob_c"]
    assert table["path"].tolist() == ["v/1.mp4", "v/2.mp4"]
    assert table["label"].tolist() == ["b", "c"] and table["prediction"].tolist() == ["a", "c"]
    assert table["prob_b"].tolist() == [0.2, 0.3]
    assert "label" not in predictions_table(["v"], [[0.7, 0.2, 0.1]], NAMES)


def test_predictions_table_of_regression():
    table = predictions_table(["v"], [[0.5, -1]], ["x", "y"], [[0.25, 1]], task="regression")
    assert table.to_dict("records") == [{"path": "v", "target_x": 0.25, "target_y": 1, "pred_x": 0.5, "pred_y": -1}]
    assert list(predictions_table(["v"], [[0.5]], ["x"], task="regression").columns) == ["path", "pred_x"]


def test_bad_table_input():
    with pytest.raises(UserError, match="2 paths for outputs of 1"):
        predictions_table(["a", "b"], [[1.0]], ["x"])
    with pytest.raises(UserError, match="truth: shape"):
        predictions_table(["a"], [[1.0]], ["x"], [[1.0, 2.0]], task="regression")
    with pytest.raises(UserError, match="are outside the range"):
        predictions_table(["a"], [[1.0, 0.0]], ["x", "y"], [2])


def test_further_columns_stand_after_the_path():
    table = predictions_table(
        ["v", "w"], np.eye(2), ["x", "y"], [0, 1], more={"subject": ["s", ""], "group": ["g", "h"]}
    )
    assert list(table.columns) == ["path", "subject", "group", "label", "prediction", "prob_x", "prob_y"]
    groups = predictions_table(["g", "h"], np.eye(2), ["x", "y"], [0, 1], key="group")
    assert groups.columns[0] == "group" and groups["group"].tolist() == ["g", "h"]


def test_a_classification_is_read_back_with_names_as_text(tmp_path):
    names, outputs = ["NA", "01", "prob_x"], np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    more = {"subject": ["007", ""]}
    write_csv(tmp_path / "predictions.csv", predictions_table(["1", "2"], outputs, names, [2, 0], more=more))
    table = read_predictions(tmp_path / "predictions.csv")
    assert table["subject"].tolist() == ["007", ""] and table["path"].tolist() == ["1", "2"]
    found = labelled_outputs(table, "file")
    assert (found.task, found.names, found.targets.tolist()) == ("classification", tuple(names), [2, 0])
    np.testing.assert_array_equal(found.outputs, outputs)
    reordered = labelled_outputs(table, "file", "classification", ["01", "NA", "prob_x"])
    assert reordered.targets.tolist() == [2, 1]
    np.testing.assert_array_equal(reordered.outputs, outputs[:, [1, 0, 2]])


def test_a_regression_is_read_back(tmp_path):
    targets, outputs = np.array([[0.25, -1.0], [1 / 3, 2.0]]), np.array([[0.1, 0.2], [0.3, 1e-9]])
    write_csv(tmp_path / "t.csv", predictions_table(["v", "w"], outputs, ["x", "y"], targets, "regression"))
    found = labelled_outputs(read_predictions(tmp_path / "t.csv"), "file")
    assert (found.task, found.names) == ("regression", ("x", "y"))
    np.testing.assert_array_equal(found.targets, targets)
    np.testing.assert_array_equal(found.outputs, outputs)


def test_tables_without_truth_or_rows_have_no_arrays():
    unlabelled = predictions_table(["v"], [[0.7, 0.3]], ["x", "y"])
    assert task_and_names(unlabelled) is None and labelled_outputs(unlabelled, "file") is None
    assert labelled_outputs(predictions_table(["v"], [[1.0]], ["x"], [0]).iloc[:0], "file") is None


def test_damaged_files_and_columns_are_named(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match=r"empty\.csv: cannot be read as CSV"):
        read_predictions(tmp_path / "empty.csv")
    table = predictions_table(["v"], [[0.7, 0.3]], ["x", "y"], [0])
    for wrong in (table.assign(label="z"), table.assign(prob_x="many")):
        with pytest.raises(UserError, match="runs/a: the columns of the predictions do not fit together"):
            labelled_outputs(wrong, "runs/a")
    with pytest.raises(UserError, match="do not fit together"):
        labelled_outputs(pd.DataFrame({"path": ["v"], "target_x": [0.5]}), "runs/a")


def test_features_are_read_back_and_damaged_ones_are_named(tmp_path):
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_features(tmp_path / "f.npz", ["a", "b"], features)
    paths, found = read_features(tmp_path / "f.npz")
    assert paths == ["a", "b"] and found.dtype == np.float32
    np.testing.assert_array_equal(found, features)
    write_features(tmp_path / "f.npz", ["a"], features)
    with pytest.raises(UserError, match=r"f\.npz: \(2, 3\) features are not finite vectors of 1 paths"):
        read_features(tmp_path / "f.npz")


def test_videos_groups_and_frames_are_scored():
    """Two videos of group g, whose mean outputs are 0.6 and 0.4, and one video without a group; three frames."""
    outputs, more = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], {"group": ["g", "g", ""]}
    videos = predictions_table(list("abc"), outputs, ["x", "y"], [0, 0, 1], more=more)
    frames = predictions_table(list("aab"), outputs, ["x", "y"], [0, 1, 0], more={"frame": [0, 4, 0]})
    predictions = EvaluationPredictions("classification", ["x", "y"], videos, 5, frames)
    scores = score_predictions(predictions)
    assert (scores["num_expected"], scores["num_evaluated"], scores["num_samples"]) == (5, 3, 3)
    assert scores["confusion"] == [[1, 1], [0, 1]] and "num_groups" not in scores
    assert scores["frames"]["confusion"] == [[1, 1], [0, 1]]
    groups = group_table(predictions)
    assert groups["group"].tolist() == ["g", "c"]
    np.testing.assert_allclose(groups[["prob_x", "prob_y"]], [[0.6, 0.4], [0.2, 0.8]])
    by_group = score_predictions(predictions, by_group=True)
    assert by_group["confusion"] == [[1, 0], [0, 1]] and by_group["num_groups"] == by_group["num_samples"] == 2


def test_intervals_are_over_people_where_they_are_known():
    """Six videos of three people, all alike within a person: intervals over people are wider than over videos."""
    labels, right = [0, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1]
    outputs = np.eye(2)[[label if hit else 1 - label for label, hit in zip(labels, right, strict=True)]]
    people = {"subject": list("ppqqrr")}
    named = predictions_table(list("abcdef"), outputs, ["x", "y"], labels, more=people)
    found, spread, notes = [], [], []
    for videos in (named, named.drop(columns="subject"), named.assign(subject="p"), named.assign(subject="")):
        scores = score_predictions(EvaluationPredictions("classification", ["x", "y"], videos, 6), intervals=True)
        known = scores["intervals"]
        low, high = known["scores"]["war"]
        assert low <= scores["war"] <= high and set(known["scores"]) >= {"uar", "macro_f1", "accuracy_x"}
        found.append((known["unit"], known["num_units"]))
        spread.append(high - low)
        notes.append(interval_note(known))
    assert found == [("subject", 3), ("file", 6), ("video", 6), ("file", 6)]
    assert spread[0] > spread[1] == spread[2] == spread[3]
    assert "people" not in notes[0] and "people are not known, and where several files are of one person" in notes[1]
    assert "people are not known" not in notes[2] and "all videos are of one person" in notes[2]
    one = EvaluationPredictions("classification", ["x", "y"], named.head(1), 1)
    assert score_predictions(one, intervals=True)["intervals"]["scores"] == {}


def test_pieces_of_a_file_are_drawn_together_and_groups_by_their_people():
    keys = ["a.mp4#t=0,1", "a.mp4#t=1,2#xywh=0,0,8,8", "b.mp4", "b#1.mp4"]
    videos = pd.DataFrame({"path": keys, "group": ["g", "g", "h", ""], "subject": ["p", "p", "q", "q"]})
    assert drawn_units(videos[["path"]], videos[["path"]])[0].tolist()[0] == drawn_units(videos, videos[["path"]])[0][1]
    assert len(set(drawn_units(videos, videos[["path"]])[0])) == 3
    groups = pd.DataFrame({"group": ["h", "b#1.mp4", "g"]})
    assert drawn_units(groups, videos)[0].tolist() == ["subject q", "subject q", "subject p"]
    two = drawn_units(groups, videos.assign(subject=["p", "q", "q", "q"]))
    assert two.kind == "group" and two.caution.startswith(
        "groups hold several people, and where one person is in several"
    )
    unknown = videos.assign(subject="", group="g")
    alone = drawn_units(groups.assign(group="g"), unknown)
    assert alone.names.tolist() == ["g"] * 3 and alone.caution.startswith("people are not known")
    frames = pd.DataFrame({"path": ["b.mp4", "b.mp4", keys[0]], "frame": [0, 1, 0]})
    assert drawn_units(frames, videos)[0].tolist() == ["subject q", "subject q", "subject p"]


def test_frames_of_a_regression_are_scored_over_all_and_per_video():
    truth, outputs = [[0.0], [1.0], [5.0], [7.0]], [[0.0], [2.0], [5.0], [8.0]]
    frames = predictions_table(list("aabb"), outputs, ["v"], truth, "regression", {"frame": [0, 1, 0, 1]})
    videos = predictions_table(list("ab"), [[1.0], [6.5]], ["v"], [[0.5], [6.0]], "regression")
    scores = score_predictions(EvaluationPredictions("regression", ["v"], videos, 2, frames))
    assert (scores["mae"], scores["frames"]["mae"], scores["frames"]["num_videos"]) == (0.5, 0.5, 2)
    assert scores["frames"]["video_mean"]["mae"] == 0.5 and scores["frames"]["num_samples"] == 4


def test_a_test_set_without_a_readable_video_cannot_be_scored():
    nothing = EvaluationPredictions(
        "classification", NAMES, pd.DataFrame(), 2, unreadable={"a.mp4": "no such file", "b": "text"}
    )
    with pytest.raises(UserError, match=r"none of the 2 videos can be read; the first: a\.mp4: no such file"):
        score_predictions(nothing)
