"""Evaluation end to end, on files: against scikit-learn, against averages by hand, and with videos that fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, mean_absolute_error

import svfap
from svfap.cli.main import main
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.evaluation import evaluate as svfap_evaluate
from svfap.evaluation.config import EvaluateConfig
from svfap.files import only_writer
from svfap.model.base import Model

pytestmark = pytest.mark.usefixtures("blank_figures")

# Not sorted, so that an order taken from the manifest would show.
LABELS = ("surprise", "happy", "fear", "angry", "sad", "neutral", "disgust")


def evaluate(model, manifest: Path | None, out: Path, **settings) -> dict:
    """Metrics of an evaluation."""
    return svfap_evaluate.evaluate(EvaluateConfig(model=str(model), manifest=manifest, out=out, **settings)).metrics


def model(folder: Path, task: str = "classification", seed: int = 0, **kwargs) -> Path:
    """Save fresh weights, large enough that outputs differ from video to video."""
    torch.manual_seed(seed)
    made = svfap.create_model(
        "svfap_debug",
        task,
        **{"label_names": LABELS if task == "classification" else (), "sampling_stride": 1, **kwargs},
    )
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return model(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="module")
def scored(faces, classifier, tmp_path_factory) -> Path:
    """Results of the classifier on the synthetic test set."""
    out = tmp_path_factory.mktemp("results")
    evaluate(classifier, faces / "test.csv", out, precision="fp32")
    return out


def read(out: Path) -> tuple[dict, pd.DataFrame]:
    return json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "predictions.csv")


def normalised(frames: np.ndarray) -> torch.Tensor:
    """(T, 32, 32, 3) uint8 -> (1, 3, T, 32, 32)."""
    scaled = (frames / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(scaled.astype(np.float32)).permute(3, 0, 1, 2)[None]


def all_frames(path: Path) -> np.ndarray:
    with open_video(path) as source:
        return source.read(range(source.num_frames))


# classes -------------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_predictions(scored, faces):
    metrics, table = read(scored)
    assert len(set(table["prediction"])) > 1
    truth, predicted = table["label"], table["prediction"]
    assert metrics["war"] == pytest.approx((truth == predicted).mean())
    assert metrics["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    for average in ("weighted", "micro", "macro"):
        assert metrics[f"{average}_f1"] == pytest.approx(f1_score(truth, predicted, average=average, zero_division=0))
    assert metrics["confusion"] == confusion_matrix(truth, predicted, labels=LABELS).tolist()
    assert (scored / "confusion.png").read_bytes().startswith(b"\x89PNG")
    for name in LABELS:
        assert metrics["per_class"][name]["accuracy"] == pytest.approx((predicted[truth == name] == name).mean())
        assert metrics["per_class"][name]["count"] == 2
    assert metrics["num_expected"] == metrics["num_evaluated"] == 14
    assert metrics["manifest"] == str(faces / "test.csv")
    assert (scored / "unreadable.csv").read_text() == "path,reason\n"


def test_one_row_for_each_video_with_probabilities_and_the_manifests_label(scored, faces):
    _, table = read(scored)
    manifest = pd.read_csv(faces / "test.csv")
    assert table["path"].tolist() == manifest["path"].tolist()
    assert table["label"].tolist() == manifest["label"].tolist()
    columns = [f"prob_{name}" for name in LABELS]
    assert list(table.columns) == ["path", "subject", "label", "prediction", *columns]
    assert table["subject"].tolist() == manifest["subject"].tolist()
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-6)
    assert table["prediction"].tolist() == [column.removeprefix("prob_") for column in table[columns].idxmax(axis=1)]


def test_the_labels_are_in_the_models_order(faces, classifier, tmp_path):
    """A model with a constant first output predicts its first label, which is not the first in the alphabet."""
    biased = svfap.load_model(classifier)
    torch.nn.init.zeros_(biased.head.weight)
    biased.head.bias.data[0] = 5.0
    biased.save_pretrained(tmp_path / "biased")
    metrics = evaluate(tmp_path / "biased", faces / "test.csv", tmp_path / "out", precision="fp32")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert set(table["prediction"]) == {"surprise"}
    expected = np.exp(5) / (np.exp(5) + 6)
    np.testing.assert_allclose(table["prob_surprise"], expected, rtol=1e-5)
    assert metrics["per_class"]["surprise"]["accuracy"] == 1.0
    assert metrics["uar"] == pytest.approx(1 / 7)
    assert np.array(metrics["confusion"])[:, 0].tolist() == [2] * 7


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A manifest of one video, 52 x 32 px, 40 frames that all differ, and one upright, 32 x 44 px."""
    folder = tmp_path_factory.mktemp("wide")
    for name, height, width in (("wide.mp4", 32, 52), ("tall.mp4", 44, 32)):
        y, x = np.mgrid[:height, :width]
        frames = [
            np.stack([127 + 120 * np.sin(0.2 * x + 0.4 * i + k) * np.cos(0.3 * y + 0.02 * i) for k in range(3)], -1)
            for i in range(40)
        ]
        write_video(folder / name, [frame.astype(np.uint8) for frame in frames], 25)
    (folder / "test.csv").write_text("path,label,valence\nwide.mp4,sad,0.25\ntall.mp4,fear,-0.5\n")
    return folder


def views_of(folder: Path) -> list[list[np.ndarray]]:
    """The four views of both videos, by hand: every second frame, first and last 16 of these 20, both ends."""
    wide, tall = all_frames(folder / "wide.mp4")[::2], all_frames(folder / "tall.mp4")[::2]
    return [
        [part[:, :, left : left + 32] for part in (wide[:16], wide[4:]) for left in (0, 20)],
        [part[:, top : top + 32] for part in (tall[:16], tall[4:]) for top in (0, 12)],
    ]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_views_are_averaged_after_the_softmax(wide, tmp_path, batch_size):
    folder = model(tmp_path / "model", sampling_stride=2, frame_fit="centre")
    net = svfap.load_model(folder)
    with torch.inference_mode():
        by_view = [torch.cat([net(normalised(view)) for view in views]).softmax(-1) for views in views_of(wide)]
    assert all((view - by_view[0][0]).abs().max() > 1e-3 for view in by_view[0][1:])  # all four say something else
    expected = torch.stack([views.mean(dim=0) for views in by_view])
    evaluate(folder, wide / "test.csv", tmp_path / "out", batch_size=batch_size, precision="fp32")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(table.filter(like="prob_"), expected, atol=1e-5)


def test_a_single_view_is_the_first_segment_and_the_centre(wide, tmp_path):
    folder = model(tmp_path / "model", sampling_stride=2, frame_fit="centre")
    evaluate(folder, wide / "test.csv", tmp_path / "out", num_segments=1, num_crops=1, precision="fp32")
    view = all_frames(wide / "wide.mp4")[::2][:16, :, 10:42]
    with torch.inference_mode():
        expected = svfap.load_model(folder)(normalised(view)).softmax(-1)[0]
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(table.filter(like="prob_").iloc[0], expected, atol=1e-5)


def test_squashed_frames_have_one_crop_and_coinciding_segments_their_weight(wide, tmp_path):
    """By hand: all views of the published test, one by one, with Pillow."""
    folder = model(tmp_path / "model", sampling_stride=2)
    evaluate(folder, wide / "test.csv", tmp_path / "out", num_segments=7, precision="fp32")
    net = svfap.load_model(folder)
    starts = [int(segment * 4 / 6) for segment in range(7)]  # 20 frames of stride 2, 16 of them in each segment
    assert starts == [0, 0, 1, 2, 2, 3, 4]
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").filter(like="prob_")
    for row, name in enumerate(("wide.mp4", "tall.mp4")):
        pictures = (Image.fromarray(frame) for frame in all_frames(wide / name)[::2])
        squashed = np.stack([np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) for picture in pictures])
        with torch.inference_mode():
            views = torch.cat([net(normalised(squashed[start:][:16])) for start in starts]).softmax(-1)
        np.testing.assert_allclose(table.iloc[row], views.mean(dim=0), atol=2e-3)  # Pillow rounds some pixels otherwise
        once = views[[0, 2, 3, 5, 6]].mean(dim=0)
        assert (once - views.mean(dim=0)).abs().max() > 4e-3, "weights matter here"


def test_features_are_the_heads_input_averaged_over_views(wide, tmp_path):
    folder = model(tmp_path / "model", sampling_stride=2, frame_fit="centre")
    evaluate(folder, wide / "test.csv", tmp_path / "out", precision="fp32")
    net = svfap.load_model(folder)
    with torch.inference_mode():
        by_hand = [torch.cat([net.features(normalised(view)) for view in views]).mean(0) for views in views_of(wide)]
        whole, features = net.outputs_and_features(normalised(views_of(wide)[0][0]))
        torch.testing.assert_close(net.head(features), whole)
    saved = np.load(tmp_path / "out" / "features.npz")
    assert saved["features"].dtype == np.float32
    np.testing.assert_allclose(saved["features"], torch.stack(by_hand), atol=1e-5)
    assert saved["paths"].tolist() == ["wide.mp4", "tall.mp4"]


def test_a_folder_is_for_one_evaluation_at_a_time(faces, classifier, tmp_path, monkeypatch):
    out, message = tmp_path / "out", r"out/metrics\.json: is being written by another run"
    out.mkdir()
    with only_writer(out / "metrics.json"), pytest.raises(UserError, match=message):
        evaluate(classifier, faces / "test.csv", out, precision="fp32")
    assert list(out.iterdir()) == []

    def second_evaluation(*args):
        with pytest.raises(UserError, match=message), only_writer(out / "metrics.json"):
            pass
        refused.append(True)
        return real(*args)

    refused: list[bool] = []
    for name in ("predict_heads", "_write_predictions"):
        real = getattr(svfap_evaluate, name)
        with monkeypatch.context() as patch:
            patch.setattr(svfap_evaluate, name, second_evaluation)
            evaluate(classifier, faces / "test.csv", out, precision="fp32")
    assert len(refused) == 2 and (out / "metrics.json").is_file()
    with only_writer(out / "metrics.json"):
        pass


def test_the_test_part_of_a_datasets_fold(faces, classifier, scored, tmp_path):
    """The dataset and its videos are in different folders; with two folds, the fold must be given."""
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for name, rows in (("one", slice(0, 5)), ("two", slice(5, 14))):
        pd.read_csv(faces / "test.csv").iloc[rows].to_csv(prepared / f"{name}.csv", index=False)
    folds = tuple(Fold(name, Path("train.csv"), Path(f"{name}.csv")) for name in ("one", "two"))
    dataset = PreparedDataset("faces", "Faces", "classification", faces, LABELS, (*folds, Fold("bare", Path("t.csv"))))
    write_dataset_file(prepared, dataset)
    metrics = evaluate(classifier, None, tmp_path / "out", dataset=prepared, fold="two", precision="fp32")
    assert metrics["num_evaluated"] == 9
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["fold"] == "two"
    expected = pd.read_csv(scored / "predictions.csv").iloc[5:].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "predictions.csv"), expected, atol=1e-5)
    for kwargs, message in (
        ({"dataset": prepared}, "Faces has folds one, two, bare; say which"),
        ({"dataset": prepared, "fold": "three"}, "no fold 'three'"),
        ({"dataset": prepared, "fold": "bare"}, "fold bare has no test part"),
        ({}, "give either `manifest`"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(classifier, None, tmp_path / "out", **kwargs)
    with pytest.raises(UserError, match="give either `manifest`"):
        evaluate(classifier, faces / "test.csv", tmp_path / "out", dataset=prepared, fold="two")
    with pytest.raises(UserError, match="fold=two: only a dataset has folds"):
        evaluate(classifier, faces / "test.csv", tmp_path / "out", fold="two")


def test_a_split_of_the_manifest(faces, classifier, scored, tmp_path):
    table = pd.read_csv(faces / "test.csv").assign(split=["dev", "test"] * 7)
    table.to_csv(tmp_path / "both.csv", index=False)
    out = tmp_path / "out"
    evaluate(classifier, tmp_path / "both.csv", out, root=faces, split="test", precision="fp32")
    chosen = pd.read_csv(out / "predictions.csv")
    everything = pd.read_csv(scored / "predictions.csv").iloc[1::2].reset_index(drop=True)
    pd.testing.assert_frame_equal(chosen, everything, atol=1e-5)


# values --------------------------------------------------------------------------------------------------------------


def test_regression_scores_clips(faces, tmp_path):
    folder = model(
        tmp_path / "model", "regression", label_names=("arousal", "valence"), num_outputs=2, output_activation="tanh"
    )
    metrics = evaluate(folder, faces / "test.csv", tmp_path / "out", precision="fp32")
    table, manifest = pd.read_csv(tmp_path / "out" / "predictions.csv"), pd.read_csv(faces / "test.csv")
    names = ["target_arousal", "target_valence", "pred_arousal", "pred_valence"]
    assert list(table.columns) == ["path", "subject", *names]
    for name in ("arousal", "valence"):
        truth, predicted = table[f"target_{name}"], table[f"pred_{name}"]
        np.testing.assert_allclose(truth, manifest[name], atol=1e-6)
        mine = metrics["per_dimension"][name]
        assert mine["mae"] == pytest.approx(mean_absolute_error(truth, predicted))
        assert mine["rmse"] == pytest.approx(np.sqrt(np.mean((truth - predicted) ** 2)))
        assert mine["pcc"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
        covariance = np.cov(truth, predicted, ddof=0)[0, 1]
        spread = truth.var(ddof=0) + predicted.var(ddof=0) + (truth.mean() - predicted.mean()) ** 2
        assert mine["ccc"] == pytest.approx(2 * covariance / spread)
        assert mine["accuracy"] == pytest.approx(1 - mine["mae"])
    assert metrics["ccc"] == pytest.approx(
        np.mean([metrics["per_dimension"][n]["ccc"] for n in ("arousal", "valence")])
    )
    assert "frames" not in metrics


def test_frame_level_scores_every_sampled_frame_once(faces, tmp_path):
    folder = model(
        tmp_path / "model", "regression", label_names=("valence",), num_outputs=1, frame_level=True, sampling_stride=1
    )
    metrics = evaluate(folder, faces / "test.csv", tmp_path / "out", precision="fp32")
    net, manifest = svfap.load_model(folder), pd.read_csv(faces / "test.csv")
    outputs, targets = [], []
    for path, side in zip(manifest["path"], manifest["frame_values"], strict=True):
        frames = all_frames(faces / path)
        total, count = np.zeros(24), np.zeros(24)
        for start in (0, 8):  # the segments share the frames 8 to 15
            with torch.inference_mode():
                total[start : start + 16] += net(normalised(frames[start : start + 16]))[0, :, 0].numpy()
            count[start : start + 16] += 1
        outputs.append(total / count)
        targets.append(pd.read_csv(faces / side)["valence"].to_numpy())
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(table["pred_valence"], [values.mean() for values in outputs], atol=1e-4)
    np.testing.assert_allclose(table["target_valence"], [values.mean() for values in targets], atol=1e-5)
    scores = metrics["frames"]
    assert scores["num_samples"] == 14 * 24
    assert scores["num_videos"] == 14
    pooled, truth = np.concatenate(outputs), np.concatenate(targets)
    assert scores["mae"] == pytest.approx(np.abs(pooled - truth).mean(), abs=1e-4)
    assert scores["pcc"] == pytest.approx(np.corrcoef(pooled, truth)[0, 1], abs=1e-3)
    assert metrics["mae"] == pytest.approx((table["pred_valence"] - table["target_valence"]).abs().mean())


# what cannot be evaluated --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(faces, tmp_path_factory) -> Path:
    """The test set with one video missing and one that is text."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(faces / "videos", folder / "videos")
    table = pd.read_csv(faces / "test.csv")
    table.to_csv(folder / "test.csv", index=False)
    (folder / table["path"][3]).write_text("no video")
    (folder / table["path"][8]).unlink()
    return folder


def test_unreadable_videos_are_counted_listed_and_the_command_fails(damaged, classifier, scored, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", str(classifier), "--manifest", str(damaged / "test.csv"), "--out", str(out)]
    assert main(["evaluate", *arguments, "--batch_size", "2", "--precision", "fp32"]) == 1
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if "error" in line] == [
        f"svfap evaluate: error: 2 videos could not be read, listed in {out / 'unreadable.csv'}"
    ]
    metrics, table = read(out)
    assert (metrics["num_expected"], metrics["num_evaluated"], metrics["num_samples"]) == (14, 12, 12)
    listed = pd.read_csv(out / "unreadable.csv")
    paths = pd.read_csv(damaged / "test.csv")["path"]
    assert listed["path"].tolist() == [paths[3], paths[8]]
    assert "not a readable video" in listed["reason"][0]
    assert listed["reason"][1] == "no such file or folder"
    whole = pd.read_csv(scored / "predictions.csv").drop([3, 8]).reset_index(drop=True)
    pd.testing.assert_frame_equal(table, whole, atol=1e-5)
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(rf"UAR, % +│ +{100 * metrics['uar']:.2f}", printed.out)
    assert re.search(rf"Weighted F1, % +│ +{100 * metrics['weighted_f1']:.2f}", printed.out)


@pytest.mark.slow
def test_two_processes_give_the_same_results_as_one(damaged, classifier, tmp_path):
    """An odd number of readable videos, so that the processes have unequal shares; regression draws from the table."""
    folder = model(tmp_path / "model", "regression", label_names=("valence", "arousal"), num_outputs=2)
    table = pd.read_csv(damaged / "test.csv").iloc[:-1].drop(columns="frame_values")
    table.to_csv(damaged / "odd.csv", index=False)
    arguments = ["--model", str(folder), "--manifest", str(damaged / "odd.csv")]
    arguments += ["--precision", "fp32", "--batch_size", "4"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "one")]) == 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", "-m", "svfap", "evaluate", *arguments, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-3000:]
    assert done.stdout.count("CCC") == 1  # only the first process prints
    assert done.stderr.count("svfap evaluate: error: 2 videos could not be read") == 1
    (one, one_table), (two, two_table) = read(tmp_path / "one"), read(tmp_path / "two")
    pd.testing.assert_frame_equal(two_table, one_table, atol=1e-5)
    assert len(two_table) == 11
    assert two["num_evaluated"] == 11
    assert two["ccc"] == pytest.approx(one["ccc"], abs=1e-4)
    listed = [(tmp_path / run / "unreadable.csv").read_text() for run in ("one", "two")]
    assert listed[0] == listed[1]
    assert (tmp_path / "two" / "scatter.png").exists()


def test_no_readable_video_at_all(damaged, classifier, tmp_path):
    table = pd.read_csv(damaged / "test.csv")
    table.iloc[[3]].to_csv(damaged / "text.csv", index=False)
    with pytest.raises(
        UserError, match=r"none of the 1 video can be read; the first: videos/\S+: not a readable video"
    ):
        evaluate(classifier, damaged / "text.csv", tmp_path / "out")
    table.iloc[[8]].to_csv(damaged / "gone.csv", index=False)
    with pytest.raises(UserError, match=r"gone\.csv: \S+\.mp4: no such file or folder\. Paths are relative to"):
        evaluate(classifier, damaged / "gone.csv", tmp_path / "out")


def test_a_label_that_the_model_does_not_know(faces, classifier, tmp_path):
    table = pd.read_csv(faces / "test.csv")
    table.loc[4, "label"] = "contempt"
    table.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UserError, match=r"row 6, column 'label': 'contempt' is not a known label; known are surprise"):
        evaluate(classifier, tmp_path / "test.csv", tmp_path / "out", root=faces)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_segments": 0}, "num_segments=0: must be at least 1"),
        ({"num_crops": 0}, "num_crops=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"precision": "fp8"}, "precision='fp8' is none of"),
        ({"split": "test"}, "no column 'split'"),
    ],
)
def test_settings_that_do_not_fit(faces, classifier, tmp_path, kwargs, message):
    with pytest.raises(UserError, match=message):
        evaluate(classifier, faces / "test.csv", tmp_path / "out", **kwargs)


def test_mistakes_are_found_before_torch_is_loaded(tmp_path):
    (tmp_path / "test.csv").write_text("path,label\na.mp4,sad\n")
    there, gone = str(tmp_path / "test.csv"), str(tmp_path / "gone")
    mistakes = {
        f"--model={gone}: no such folder": ["--model", gone, "--manifest", there],
        f"--manifest={gone}: no such file": ["--model", str(tmp_path), "--manifest", gone],
        "give either --manifest": ["--model", str(tmp_path)],
        "--fold=2: only a dataset has folds": ["--model", str(tmp_path), "--manifest", there, "--fold", "2"],
        "--num_crops=0: must be at least 1": ["--model", str(tmp_path), "--manifest", there, "--num_crops", "0"],
    }
    code = (
        "import sys; from svfap.cli.main import main\nfor arguments in {}: assert main(['evaluate', *arguments]) == 1\n"
    )
    code += "print(sorted({{'torch', 'pandas', 'sklearn', 'matplotlib'}} & set(sys.modules)))"
    command = [sys.executable, "-c", code.format(list(mistakes.values()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
    for message, line in zip(mistakes, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"svfap evaluate: error: {message}")


@pytest.mark.parametrize(
    ("task", "kwargs", "message"),
    [
        ("features", {}, "is a features model; only classification and regression"),
        ("pretraining", {}, "is a pretraining model; only classification and regression"),
        ("classification", {"label_names": (), "num_outputs": 7}, "has no label_names"),
        ("regression", {"label_names": ("courage",), "num_outputs": 1}, "no column 'courage' for that dimension"),
    ],
)
def test_models_that_do_not_fit(faces, tmp_path, task, kwargs, message):
    pd.read_csv(faces / "test.csv").drop(columns="frame_values").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UserError, match=message):
        evaluate(model(tmp_path / "model", task, **kwargs), tmp_path / "test.csv", tmp_path / "out", root=faces)


def test_a_folder_that_cannot_be_written_is_named_before_the_work(faces, classifier, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(Model, "__call__", lambda *a: pytest.fail("the model has run"))
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"out={out}: cannot write there"):
            evaluate(classifier, faces / "test.csv", out)


def test_a_frame_level_classifier_is_scored_per_clip(faces, tmp_path):
    names = tuple(sorted(set(pd.read_csv(faces / "test.csv")["label"])))
    torch.manual_seed(0)
    kwargs = dict(label_names=names, frame_level=True, sampling_stride=1)
    net = svfap.create_model("svfap_debug", "classification", **kwargs).eval()
    net.head.weight.data.mul_(1e4)
    net.save_pretrained(tmp_path / "model")
    metrics = evaluate(tmp_path / "model", faces / "test.csv", tmp_path / "out", precision="fp32")
    assert metrics["num_evaluated"] == 14
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(table.filter(like="prob_").sum(axis=1), 1, atol=1e-5)
    assert (table["label"] == table["prediction"]).mean() == metrics["war"]
