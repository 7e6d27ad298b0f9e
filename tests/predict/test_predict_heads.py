"""Predictions of a model with several heads: the columns, timelines and pages of each are those of a model with it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import svfap
from svfap.data.video import write_video
from svfap.model.config import Head
from svfap.predict.config import PredictConfig
from svfap.predict.draw import Painter
from svfap.predict.predict import predict_videos
from svfap.predict.predictor import Predictor
from svfap.predict.table import read_predictions, tables_of_heads

MOOD = Head("mood", "classification", ("joy", "anger", "calm"))
AFFECT = Head("affect", "regression", ("valence", "arousal"))
COURSE = Head("course", "regression", ("valence",), frame_level=True)


def model(*heads: Head) -> svfap.Model:
    """Fresh weights, large enough that outputs differ from clip to clip."""
    torch.manual_seed(0)
    number = sum(len(head.label_names) for head in heads)
    settings = dict(num_outputs=number, heads=heads, sampling_stride=1, frame_fit="centre")
    made = svfap.create_model("svfap_debug", "multitask", **settings).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """40 frames, 25 a second, of noise whose brightness changes."""
    out, generator = tmp_path_factory.mktemp("video") / "v.mp4", np.random.default_rng(0)
    levels = 60 + 50 * np.sin(np.arange(40) / 5)
    write_video(out, [(generator.random((32, 32, 3)) * 50 + level).astype(np.uint8) for level in levels], 25)
    return out


def test_columns_are_those_of_each_head_alone(video):
    """With a frame-level head there is a row per frame; the values of the other head are those of the window."""
    made = model(MOOD, COURSE)
    table = Predictor(made, "cpu", "fp32", faces="none")(video)
    assert list(table) == [
        "start_s",
        "end_s",
        "first_frame",
        "last_frame",
        "mood/label",
        "mood/prob_joy",
        "mood/prob_anger",
        "mood/prob_calm",
        "course/valence",
    ]
    assert len(table) == 40
    parts = tables_of_heads(table)
    frames = Predictor(made.of_head("course"), "cpu", "fp32", faces="none")(video)
    pd.testing.assert_frame_equal(parts["course"], frames, atol=1e-5)
    windows = Predictor(made.of_head("mood"), "cpu", "fp32", None, faces="none")(video)
    probabilities = parts["mood"].filter(like="prob_")
    assert list(probabilities) == list(windows.filter(like="prob_"))
    size = made.config.num_frames
    full = windows.filter(like="prob_").iloc[: 40 // size].to_numpy()
    np.testing.assert_allclose(probabilities.iloc[: 40 // size * size], full.repeat(size, axis=0), atol=1e-5)
    assert probabilities.std().min() > 1e-3


def test_heads_of_clips_give_a_row_per_window(video):
    made = model(MOOD, AFFECT)
    parts = tables_of_heads(Predictor(made, "cpu", "fp32", faces="none")(video))
    for head, part in parts.items():
        alone = Predictor(made.of_head(head), "cpu", "fp32", faces="none")(video)
        pd.testing.assert_frame_equal(part, alone, atol=1e-5)


def test_each_head_has_its_timeline_and_page_and_all_are_drawn(video, tmp_path, monkeypatch):
    model(MOOD, AFFECT).save_pretrained(tmp_path / "model")
    drawn: list[list[str]] = []
    real = Painter.paint

    def noting(self, picture, faces):
        drawn.append(self.names)
        return real(self, picture, faces)

    monkeypatch.setattr(Painter, "paint", noting)
    out = tmp_path / "out"
    settings = dict(model=str(tmp_path / "model"), faces="none", precision="fp32", out=out / "t.csv")
    done = predict_videos([video], PredictConfig(**settings, report=out / "p.html", overlay=out / "o.mp4"))
    written = {"t.csv", "t.csv.about.json", "t_mood.png", "t_affect.png", "p_mood.html", "p_affect.html", "o.mp4"}
    assert {path.name for path in out.iterdir()} == {path.name for path in done.written} == written
    assert set(tables_of_heads(read_predictions(out / "t.csv"))) == {"mood", "affect"}
    pages = {head: (out / f"p_{head}.html").read_text() for head in ("mood", "affect")}
    assert "anger" in pages["mood"] and "arousal" not in pages["mood"]
    assert "arousal" in pages["affect"] and "anger" not in pages["affect"]
    assert drawn[0] == ["joy", "anger", "calm", "valence", "arousal"]
    assert Painter(90, 90, ["a/valence", "b/valence", "b/arousal"], (0, 1)).names == [
        "a/valence",
        "b/valence",
        "arousal",
    ]
