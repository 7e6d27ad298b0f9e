"""Calibration, agreement, neighbours, hardest videos and bottleneck maps, against cases worked by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pages import read_page

from svfap.data.augment import normalize
from svfap.data.clips import validation_indices
from svfap.data.crops import fit_frames
from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.evaluation.metrics import write_metrics
from svfap.evaluation.predictions import predictions_table
from svfap.evaluation.reliability import reliability
from svfap.model.build import create_model
from svfap.reports import embedding
from svfap.reports.agreement import bland_altman, limits_of_agreement
from svfap.reports.bottleneck import map_figure, map_table, overlay, spatial_maps
from svfap.reports.calibration import reliability_diagram
from svfap.reports.config import ReportConfig
from svfap.reports.embedding import embedding_map, neighbour_table, project, subsample
from svfap.reports.hard_examples import NUM_FRAMES, SIZE_PX, RunVideos, rank_by_difficulty
from svfap.reports.report import report
from svfap.reports.runs import read_run
from svfap.view.figures.base import STYLE
from svfap.view.thumbnail import thumbnail

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setitem(STYLE, "figure.dpi", 50)


# Calibration ---------------------------------------------------------------------------------------------------------


def two_classes(top: list[float]) -> np.ndarray:
    """Class 0 with these probabilities, all above a half."""
    return np.stack([np.array(top), 1 - np.array(top)], axis=1)


def test_ece_of_a_case_worked_by_hand():
    # Five bins: (0.4, 0.6] holds 0.6, which is its upper edge, (0.6, 0.8] holds 0.7 and 0.8, (0.8, 1] holds 0.9 and 1.
    # Right: of 0.6 none, of 0.7 and 0.8 one, of 0.9 and 1 both.
    result = reliability([1, 0, 1, 0, 0], two_classes([0.6, 0.7, 0.8, 0.9, 1.0]), num_bins=5)
    assert result.count.tolist() == [0, 0, 1, 2, 2]
    np.testing.assert_allclose(result.confidence, [0, 0, 0.6, 0.75, 0.95])
    np.testing.assert_allclose(result.accuracy, [0, 0, 0, 0.5, 1])
    assert result.ece == pytest.approx((1 * 0.6 + 2 * 0.25 + 2 * 0.05) / 5)


def test_chance_is_the_ece_of_a_perfectly_calibrated_model():
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1, 400)
    found = [reliability((rng.random(400) >= top).astype(int), two_classes(list(top))) for _ in range(60)]
    eces = np.array([one.ece for one in found])
    assert len({one.chance for one in found}) == 1  # it is of the probabilities, whatever the labels
    assert found[0].chance == pytest.approx(eces.mean(), abs=0.006)
    assert (eces > found[0].chance_95).mean() < 0.15
    sure = reliability(np.zeros(400, int), np.array([[1.0, 0.0]] * 400))
    assert (sure.ece, sure.chance, sure.chance_95) == (0, 0, 0)


def test_reliability_diagram_shows_accuracy_gap_and_counts():
    result = reliability([1, 0, 1, 0, 0], two_classes([0.6, 0.7, 0.8, 0.9, 1.0]), num_bins=5)
    axes, counts = reliability_diagram(result).axes
    accuracy, gap = axes.containers
    assert [bar.get_height() for bar in accuracy] == [0, 0.5, 1]
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx([0.6, 0.75, 0.95])
    assert [bar.get_height() for bar in counts.containers[0]] == [0, 0, 1, 2, 2]
    assert axes.get_legend().get_title().get_text() == "ECE 0.240"


# Agreement -----------------------------------------------------------------------------------------------------------


def test_limits_of_agreement_of_a_case_worked_by_hand():
    targets, predictions = np.array([[0.0], [0.0], [0.0], [0.0]]), np.array([[1.0], [3.0], [1.0], [3.0]])
    (row,) = limits_of_agreement(targets, predictions, ["valence"])
    spread = (4 / 3) ** 0.5  # squared deviations of 1, four times, over three
    assert row["mean difference"] == 2 and row["sd"] == pytest.approx(spread)
    assert (row["lower limit"], row["upper limit"]) == pytest.approx((2 - 1.96 * spread, 2 + 1.96 * spread))
    assert row["outside, %"] == "0.0"
    (axes,) = bland_altman(targets, predictions, ["valence"]).axes
    assert axes.collections[0].get_offsets().tolist() == [[0.5, 1], [1.5, 3], [0.5, 1], [1.5, 3]]
    heights = [line.get_ydata()[0] for line in axes.get_lines()]
    assert heights == pytest.approx([0, row["upper limit"], 2, row["lower limit"]])
    assert [t.get_text() for t in axes.texts] == ["+1.96 sd +4.263", "mean +2.000", "−1.96 sd -0.263"]


# Embedding -----------------------------------------------------------------------------------------------------------


def test_neighbours_of_features_that_encode_the_subject_share_it_and_not_the_label():
    # Two subjects along two directions, each with two clips of both labels; the label is a small step across.
    subjects, labels = list("aaaabbbb"), list("xyxyxyxy")
    across = {"x": 0.1, "y": -0.1}
    pairs = list(zip(subjects, labels, strict=True))
    features = [[3 * (s == "a"), 3 * (s == "b"), across[name], 0.01 * i] for i, (s, name) in enumerate(pairs)]
    rows = {row["the nearest neighbour shares"]: row for row in neighbour_table(features, labels, subjects)}
    # Of seven others three share the label, three the subject; of another subject's four, two share the label.
    assert [row["chance, %"] for row in rows.values()] == ["42.9", "42.9", "50.0"]
    assert [row["1-NN, %"] for row in rows.values()] == ["100.0", "100.0", "100.0"]
    identity = [[3 * (s == "a"), 3 * (s == "b"), 0.1 * i] for i, s in enumerate(subjects)]
    rows = {row["the nearest neighbour shares"]: row for row in neighbour_table(identity, labels, subjects)}
    assert rows["the subject"]["1-NN, %"] == "100.0" and float(rows["the label"]["1-NN, %"]) < 30
    assert {row["clips"] for row in rows.values()} == {8}


def test_neighbours_where_subjects_or_labels_are_unknown():
    features = np.eye(4) + 0.1
    assert [r["the nearest neighbour shares"] for r in neighbour_table(features, list("aabb"), None)] == ["the label"]
    rows = neighbour_table(features, None, ["s", "s", "t", ""])
    assert [(r["the nearest neighbour shares"], r["clips"], r["chance, %"]) for r in rows] == [
        ("the subject", 3, "33.3")
    ]


def test_maps_are_pca_for_a_few_and_tsne_for_many_and_drawn_from_a_fixed_part(monkeypatch):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(12, 5))
    places, how = project(few)
    assert how.startswith("PCA") and places.shape == (12, 2)
    centred = few - few.mean(0)
    np.testing.assert_allclose(places.var(0), np.linalg.svd(centred)[1][:2] ** 2 / 12)
    many = np.concatenate([rng.normal(size=(20, 5)), 50 + rng.normal(size=(20, 5))])
    places, how = project(many)
    assert how.startswith("t-SNE (perplexity 8)")
    nearest = np.linalg.norm(places[:, None] - places, axis=-1) + 1e9 * np.eye(40)
    assert ((nearest.argmin(1) < 20) == (np.arange(40) < 20)).all()  # the two clouds stay apart
    monkeypatch.setattr(embedding, "MAX_CLIPS", 10)
    part = subsample(100)
    assert len(set(part.tolist())) == 10 and (np.diff(part) > 0).all() and (part == subsample(100)).all()
    assert subsample(10).tolist() == list(range(10))


def test_embedding_map_has_a_colour_for_every_common_name_and_a_scale_for_numbers():
    names = [f"s{i % 20:02}" for i in range(60)] + ["_x"] * 4 + [""]
    places = np.random.default_rng(0).normal(size=(65, 2))
    figure = embedding_map(places, {"by subject": names, "by valence": np.linspace(0, 1, 65)})
    subjects, numbers = figure.axes[:2]
    texts = [text.get_text() for text in subjects.get_legend().get_texts()]
    assert len(texts) == 13 and texts[0] == "10 others" and " _x" in texts  # '' is one of the others
    assert sum(len(group.get_offsets()) for group in subjects.collections) == 65
    np.testing.assert_allclose(numbers.collections[0].get_array(), np.linspace(0, 1, 65))
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["by subject", "by valence"]


# Hardest videos ------------------------------------------------------------------------------------------------------


def test_the_hardest_have_the_lowest_probability_of_the_truth_or_the_largest_error():
    probabilities = [[0.9, 0.1], [0.2, 0.8], [0.45, 0.55]]
    ranked = rank_by_difficulty(predictions_table(list("abc"), probabilities, ["x", "y"], [1, 1, 0]))
    assert ranked["path"].tolist() == ["a", "c", "b"]
    assert ranked["difficulty"].tolist() == pytest.approx([0.9, 0.55, 0.2])
    assert ranked["description"][0] == "y, given 10.0%; predicted: x (90.0%)"
    truth, predicted = [[0.0, 0.0], [1.0, 0.0]], [[0.5, 0.1], [1.0, -1.0]]
    ranked = rank_by_difficulty(predictions_table(["a", "b"], predicted, ["v", "w"], truth, "regression"))
    assert ranked["difficulty"].tolist() == pytest.approx([0.5, 0.3]) and ranked["path"].tolist() == ["b", "a"]
    assert ranked["description"][0] == "v 1.00, predicted 1.00; w 0.00, predicted -1.00"
    with pytest.raises(UserError, match="no truth"):
        rank_by_difficulty(predictions_table(["a"], [[0.5, 0.5]], ["x", "y"]))


@pytest.fixture(scope="module")
def evaluated(faces, tmp_path_factory) -> Path:
    """A run with a model, and predictions on the synthetic faces: the true class least likely on the third and on a stray."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    test = pd.read_csv(faces / "test.csv").head(6)
    names = sorted(set(pd.read_csv(faces / "test.csv")["label"]))
    create_model("svfap_debug", "classification", label_names=tuple(names), sampling_stride=1).save_pretrained(
        folder / "best"
    )
    labels = [names.index(label) for label in test["label"]]
    probabilities = np.full((7, len(names)), 0.1)
    labels.append(0)
    probabilities[np.arange(7), labels] = [0.5, 0.6, 0.01, 0.7, 0.9, 0.8, 0.02]
    table = predictions_table([*test["path"], "../../../etc/passwd"], probabilities, names, labels)
    table.insert(1, "subject", [*test["subject"], ""])
    (folder / "evaluation").mkdir()
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    write_metrics(folder / "evaluation/metrics.json", {"model": "no/model", "manifest": str(faces / "test.csv")})
    return folder


def test_the_page_shows_thumbnails_only_of_videos_in_the_manifest(evaluated, faces, tmp_path, monkeypatch):
    def network(*_, **__):
        raise AssertionError("the report asks the network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", network)
    report([evaluated], ReportConfig(out=tmp_path / "report.html", videos=3))
    _, outline = read_page(tmp_path / "report.html")
    third = pd.read_csv(faces / "test.csv")["path"][2]
    paths = [
        p for p in outline.texts["p"] if p in (third, "../../../etc/passwd", pd.read_csv(faces / "test.csv")["path"][0])
    ]
    assert paths[:2] == [third, "../../../etc/passwd"]
    assert "no picture: not in the manifest" in outline.texts["p"]
    assert "The 3 hardest videos" in outline.texts["h3"]
    pictures = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1) for jpeg in outline.kind("image/jpeg")[4:]]
    assert [picture.shape for picture in pictures] == [(SIZE_PX, NUM_FRAMES * SIZE_PX, 3)] * 2
    clip = RunVideos(read_run(evaluated)).strip(third)
    assert len(np.unique(clip, axis=0)) == NUM_FRAMES  # of a video that is shorter than the span of a thumbnail
    np.testing.assert_array_equal(pictures[0], cv2.imdecode(np.frombuffer(thumbnail(clip), np.uint8), 1))
    # The model lies in the run's own folder, and its two bottleneck stages are drawn for the easiest and the hardest.
    captions = [f"Stage {stage}, {which} video" for which in ("easiest", "hardest") for stage in (2, 3)]
    assert [c for c in outline.texts["figcaption"] if c.startswith("Stage")] == captions


def test_a_missing_or_unreadable_manifest_is_reported_in_one_line(evaluated, faces, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("user:password\n")
    for manifest, line in (
        (tmp_path / "gone.csv", f"its manifest ({tmp_path / 'gone.csv'}) cannot be found"),
        (secret, f"its manifest ({secret}) cannot be read"),
    ):
        metrics = evaluated / "evaluation/metrics.json"
        before = metrics.read_text()
        write_metrics(metrics, {"model": "no/model", "manifest": str(manifest)})
        try:
            report([evaluated], ReportConfig(out=tmp_path / "report.html", videos=2))
        finally:
            metrics.write_text(before)
        text, outline = read_page(tmp_path / "report.html")
        assert f"No maps of the bottleneck tokens: {line}." in outline.texts["p"]
        assert f"Lowest probability of the true class first. No pictures: {line}." in outline.texts["p"]
        assert "password" not in text and not outline.kind("image/jpeg")


def test_a_clip_is_the_middle_of_the_video_in_a_central_crop(evaluated, faces):
    path = pd.read_csv(faces / "test.csv")["path"][4]
    clip = RunVideos(read_run(evaluated)).clip(path, 16, 1, 32)
    with open_video(faces / path) as video:
        expected = fit_frames(video.read(validation_indices(video.num_frames, 16, 1)), 32, "centre")
    np.testing.assert_array_equal(clip, expected)


# Bottleneck tokens ---------------------------------------------------------------------------------------------------


def test_maps_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    model = create_model("svfap_debug", "features")
    clips = np.random.default_rng(0).integers(0, 255, (2, 16, 32, 32, 3), dtype=np.uint8)
    pixels = normalize(torch.from_numpy(clips), model.config.pixel_mean, model.config.pixel_std)
    maps = spatial_maps(model, clips)
    assert {stage: weights.shape for stage, weights in maps.items()} == {2: (2, 4, 2, 16), 3: (2, 2, 2, 16)}
    for weights in maps.values():
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    with torch.inference_mode():
        encoder = model.encoder
        tokens = (encoder.tubelet_embed(pixels, None) + encoder.positions).unflatten(1, (8, -1))
        tokens = encoder.stages[0](tokens)
        expected = encoder.stages[1].spatial_bottleneck.maps(encoder.stages[1].temporal_downsample(tokens))
    np.testing.assert_allclose(maps[2], expected.numpy(), rtol=1e-5)
    assert not any(stage.spatial_bottleneck._forward_pre_hooks for stage in list(encoder.stages)[1:])
    assert spatial_maps(create_model("svfap_debug", "features", spatial_bottleneck=False), clips) == {}


def test_map_table_has_effective_positions_and_similarity():
    point, even, half = np.eye(4)[0], np.full(4, 0.25), np.array([0.5, 0.5, 0, 0])
    (row,) = map_table({2: np.stack([point, even])[None, None].astype(np.float32)})
    assert (row["effective positions of a token: least"], row["most"], row["mean"]) == pytest.approx((1, 4, 2.5))
    assert row["similarity of tokens"] == pytest.approx(0.5)
    (row,) = map_table({3: np.stack([half, half])[None, None].astype(np.float32)})
    assert (row["mean"], row["similarity of tokens"]) == pytest.approx((2, 1))


def test_map_figure_draws_weights_over_the_frames_of_their_steps():
    clip = np.full((8, 8, 8, 3), 100, np.uint8) + 10 * np.arange(8, dtype=np.uint8)[:, None, None, None]
    maps = np.full((2, 8, 4), 0.25, np.float32)  # eight tokens; the last two attend to one corner
    maps[:, 6:] = np.eye(4)[3]
    figure = map_figure(clip, maps)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 * 7
    assert [axes.get_title() for axes in panels[:7]] == ["frame", *(f"token {n}" for n in (1, 2, 3, 4, 7, 8))]
    assert [int(panels[row].images[0].get_array()[0, 0, 0]) for row in (0, 7)] == [120, 160]
    even, corner = (panels[column].images[0].get_array().astype(int) for column in (1, 5))
    assert np.ptp(even) > 0 and (even == even[0, 0]).all()
    assert corner[-1, -1].sum() > corner[0, 0].sum() + 100  # bright where the weight is
    plain = overlay(clip[0], np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(plain[..., 0], plain[0, 0, 0])
