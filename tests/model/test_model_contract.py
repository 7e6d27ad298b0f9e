"""`frame_rate` and `face_crop` of a model: checked, saved, shown, and absent in older files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import svfap
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.model.config import ModelConfig

CROP = {"margin": 0.3, "align": True, "border": "reflect", "detector": "yunet"}


@pytest.fixture
def saved(tmp_path) -> Path:
    svfap.create_model("svfap_debug", sampling_stride=4, frame_rate=25.0, face_crop=CROP).save_pretrained(tmp_path)
    return tmp_path


def test_the_contract_is_saved_and_loaded(saved):
    config = svfap.load_model(saved).config
    assert (config.frame_rate, config.face_crop, config.span) == (25, CROP, 61)


def test_a_file_without_it_says_nothing(saved):
    words = json.loads((saved / "config.json").read_text())
    version = words["format_version"]
    del words["frame_rate"], words["face_crop"]
    (saved / "config.json").write_text(json.dumps(words))
    config = svfap.load_model(saved).config
    assert (config.frame_rate, config.face_crop) == (None, {})
    svfap.load_model(saved).save_pretrained(saved)
    assert json.loads((saved / "config.json").read_text())["format_version"] == version


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_rate": 0}, "frame_rate=0 must be pictures per second, above 0"),
        ({"frame_rate": "25"}, "frame_rate='25' must be pictures per second"),
        ({"frame_rate": float("nan")}, "frame_rate=nan must be"),
        ({"face_crop": {"padding": 1}}, "face_crop: 'padding' is none of margin, align, border, detector"),
        ({"face_crop": {"align": "yes"}}, "face_crop: align='yes' is of the wrong type"),
        ({"face_crop": {"margin": True}}, "face_crop: margin=True is of the wrong type"),
        ({"face_crop": 0.3}, "face_crop=0.3 must be names with values"),
        ({"provenance": ["DFEW"]}, "provenance must be a mapping"),
    ],
)
def test_values_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=f"model config: {message}"):
        ModelConfig(**settings)


def test_people_are_shown_it(saved, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["info", str(saved)]) == 0
    shown = capsys.readouterr().out
    card = (saved / "README.md").read_text()
    crop = "margin 0.3, align true, border reflect, detector yunet"
    for words in (" ".join(shown.replace("│", " ").split()), card.replace("|", "").replace("  ", " ")):
        assert "frames a second in training 25" in words
        assert "seconds of a clip 2.44" in words
        assert "face crops of training margin 0.3" in words
    assert crop in card
    assert main(["info", "svfap_debug"]) == 0
    assert "in training" not in capsys.readouterr().out, "a preset is not trained"
