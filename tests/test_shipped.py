"""The models that come with the package: small, loadable, described, listed, and used where no model is named."""

from __future__ import annotations

import html
import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_faces import Spots, film, frames

import svfap
import svfap.predict.predictor as predictor_module
from svfap.cli.main import main
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.shipped import CARD_FILE, SHIPPED, list_models, model_card, shipped_folder

ROOT = Path(__file__).resolve().parents[1]
MOVEMENT = ["mouth_opening", "smile_width", "brow_height", "eye_opening", "blink"]


def config_of(name: str) -> ModelConfig:
    return ModelConfig.read(SHIPPED / name / "config.json")


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_models_are_shipped():
    assert list_models() == svfap.list_models() == ["demo", "movement"]


@pytest.mark.parametrize("name", list_models())
def test_a_shipped_model_is_small_and_loads(name):
    model = svfap.load_model(name)
    assert not model.training
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == model.config.provenance["parameters"] <= 2_000_000
    )
    assert (SHIPPED / name / "model.safetensors").stat().st_size <= 8_000_000
    assert len(model.config.label_names) == len(model.config.meanings) == model.config.num_outputs


@pytest.mark.parametrize("name", list_models())
def test_the_data_of_the_package_includes_shipped_models(name):
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["svfap"]
    there = {path for pattern in patterns for path in SHIPPED.parent.glob(pattern)}
    files = set((SHIPPED / name).iterdir())
    assert {path.name for path in files} >= {"config.json", "model.safetensors", CARD_FILE}
    assert files <= there


@pytest.mark.parametrize("name", ["movement"])
def test_the_card_has_the_figures_of_the_config_and_no_gaps(name):
    known, card = config_of(name).provenance, model_card(name)
    assert known["licence"] in card and f"{known['parameters'] / 1e6:.2f} M" in card
    for output in config_of(name).label_names:
        pairs = (known["scores"][output][key] for key in ("ccc", "ccc_within_people"))
        cells = (f"{value:.2f} ({low:.2f} to {high:.2f})" for value, low, high in pairs)
        assert f"| {output} | {' | '.join(cells)} | " in card
    for heading in ("Data", "Results", "Intended use", "Limits"):
        assert f"## {heading}" in card
    assert "not emotion" in " ".join(card.split())
    assert not any(gap in card for gap in ("NUMBER", "DATASET", "TODO"))


def test_movement_reads_what_it_was_shipped_for():
    """The bar that it had to pass on people that it never saw."""
    scores = config_of("movement").provenance["scores"]
    assert scores["mouth_opening"]["ccc"][0] >= 0.7
    assert scores["smile_width"]["ccc_within_people"][0] >= 0.5


def test_outputs_do_not_depend_on_light():
    model = svfap.load_model("movement")
    clip = torch.randn(2, 3, 1, 128, 128, generator=torch.Generator().manual_seed(0)).cumsum(3) / 9
    with torch.no_grad():
        first, darker = model(clip), model(0.5 * clip - 0.2)
    assert first.shape == (2, 1, 5) and first.isfinite().all()
    torch.testing.assert_close(first, darker, rtol=0, atol=5e-3)


def test_models_lists_them_and_prints_a_card(capsys):
    assert main(["models"]) == 0
    listed = "".join(capsys.readouterr().out.replace("│", " ").split())  # without the lines of the table
    for text in ("demo", "movement", *MOVEMENT, "128 × 128", "MIT", "authors/dfew-1 to 5", "disgust", "not stated"):
        assert text.replace(" ", "") in listed, text
    assert main(["models"]) == 0
    how = "download it as authors/dfew-1.pth; svfap convert authors/dfew-1.pth models/dfew-1 --dataset dfew\n"
    assert how in capsys.readouterr().out, "on standard output, in one line"
    assert main(["models", "movement"]) == 0
    assert capsys.readouterr().out == model_card("movement")
    assert main(["models", "movment"]) == 1
    assert "is neither a folder or file here nor one of demo, movement" in said(capsys)


def test_info_knows_shipped_models(capsys):
    assert main(["info", "movement"]) == 0
    assert "each frame by itself" in " ".join(capsys.readouterr().out.split())


def test_a_folder_of_that_name_is_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    svfap.create_model("svfap_debug", "features").save_pretrained(tmp_path / "movement")
    assert svfap.load_model("movement").config.preset == "movement"
    assert svfap.load_model("./movement").config.preset == "svfap_debug"
    assert svfap.load_model(Path("movement")).config.preset == "svfap_debug"
    assert shipped_folder("nothing") is None


def test_a_video_is_read_without_naming_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor_module, "make_detector", lambda *_: Spots())
    film(tmp_path / "interview.mp4", frames([[(20 + number // 3, 20)] for number in range(12)]))
    assert main(["predict", "interview.mp4", "--report", "page.html", "--overlay", "overlay.mp4"]) == 0
    printed = said(capsys)
    assert "model movement, which comes with SVFAP" in printed
    assert "reads facial movement (mouth_opening, smile_width, brow_height, eye_opening, blink), not emotion" in printed
    table = pd.read_csv("predictions.csv")
    assert len(table) == 12 and [name for name in table if name in MOVEMENT] == MOVEMENT
    np.testing.assert_allclose(table["end_s"] - table["start_s"], 1 / 25, atol=1e-6)
    np.testing.assert_allclose(table["start_s"], np.arange(12) / 25, atol=1e-6)
    about = json.loads(Path("predictions.csv.about.json").read_text())
    assert about["methods"].startswith("Facial movement was predicted with SVFAP")
    assert "each frame by itself, at 25 frames per second" in about["methods"]
    assert about["meanings"].keys() == set(MOVEMENT)
    page = html.unescape(Path("page.html").read_text())
    assert "<h1>Facial movement over time</h1>" in page and "It is not an emotion" in page
    assert about["meanings"]["smile_width"] in page and "how observers would rate" not in page
    assert Path("overlay.mp4").stat().st_size and Path("predictions.png").stat().st_size


def test_fewer_rows_with_a_hop(tmp_path, capsys):
    film(tmp_path / "a.mp4", frames([[(20, 20)] for _ in range(12)]))
    config = svfap.PredictConfig(faces="none", hop_s=0.12, out=tmp_path / "rows.csv")
    done = svfap.predict_videos(tmp_path / "a.mp4", config)
    np.testing.assert_allclose(done.table["start_s"], [0, 0.12, 0.24, 0.36, 0.44], atol=1e-6)
    assert "a frame every 0.12 s by itself" in json.loads(done.about.read_text())["methods"]


@pytest.mark.parametrize("fps", [8, 60])
def test_a_model_of_single_frames_takes_every_picture_and_warns_of_no_rate(tmp_path, capsys, fps):
    write_video(tmp_path / "a.mp4", frames([[(20, 20)] for _ in range(8)]), fps)
    table = svfap.Predictor("movement", "cpu", faces="none")(tmp_path / "a.mp4")
    assert len(table) == 8 and "/s in the file" not in said(capsys)


def test_a_shipped_model_is_a_start_for_another_task():
    features = svfap.load_model("movement", task="features")
    assert features(torch.zeros(1, 3, 1, 128, 128)).shape == (1, 1, 256)
    model = svfap.load_model("movement", task="classification", label_names=("a", "b", "c"), num_outputs=3)
    assert model.config.reads == "affect" and model.config.meanings == () == model.config.output_scale


@pytest.mark.parametrize(
    ("fit", "method", "warning"),
    [
        ("squash", "resized to the model's square input whatever its proportions", "distorted: squashed to squares"),
        ("centre", "its centre square scaled to the model's input", "cut to their centre square"),
    ],
)
def test_how_whole_pictures_are_fitted_is_told(tmp_path, capsys, fit, method, warning):
    settings = dict(num_outputs=5, label_names=tuple(MOVEMENT), frame_fit=fit)
    svfap.load_model("movement", task="regression", **settings).save_pretrained(tmp_path / "model")
    film(tmp_path / "a.mp4", frames([[(20, 20)] for _ in range(3)]))
    config = svfap.PredictConfig(model=str(tmp_path / "model"), faces="none", out=tmp_path / "rows.csv")
    done = svfap.predict_videos(tmp_path / "a.mp4", config)
    assert f"Pictures that are not square are {warning}" in said(capsys)
    assert f"used as a face, {method}." in json.loads(done.about.read_text())["methods"]


def test_other_models_are_still_checked():
    with pytest.raises(UserError, match="no such folder or checkpoint; did you mean movement, which comes with SVFAP"):
        svfap.predict_videos(__file__, svfap.PredictConfig(model="Movment", out=None))
    with pytest.raises(UserError, match="no such folder or checkpoint$"):
        svfap.predict_videos(__file__, svfap.PredictConfig(model="elsewhere", out=None))


def test_every_verb_takes_the_name(tmp_path, monkeypatch, capsys):
    """Also beside a folder of this name, which is no model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "movement").mkdir()
    for number in range(8):
        film(tmp_path / f"{number}.mp4", frames([[(20 + number, 20)] for _ in range(8)]))
    classes = [f"{n}.mp4,{n},{'ab'[n % 2]}\n" for n in range(8)]
    for name, part in (("train", classes[:6]), ("test", classes[6:])):
        Path(f"{name}.csv").write_text("path,subject,label\n" + "".join(part))
    assert main(["info", "movement"]) == 0
    listed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in ("not emotion", "licence MIT", "0 is shut", "5.1 MB as float32", "multiply-adds"):
        assert text in listed, text
    assert main(["extract", "0.mp4", "--model", "movement", "--faces", "none", "--out", "features.npz"]) == 0
    workers = ["--num_workers", "0"]
    probe = ["probe", "movement", "--manifest", "train.csv", "--test_manifest", "test.csv", "--out", "probe", *workers]
    assert main(probe) == 0, said(capsys)
    assert Path("probe/probe.json").is_file()
    capsys.readouterr()
    assert main(["convert", "movement", "converted"]) == 1
    assert "movement: its encoder standardises clips, which the published one does not" in said(capsys)
    assert main(["reconstruct", "0.mp4", "--model", "movement", "--out", "r"]) == 1
    assert "needs a pre-training model" in said(capsys)
    finetune = ["finetune", "--manifest", "train.csv", "--init", "movement", "--preset", "svfap_debug", "--out", "run"]
    assert main([*finetune, *workers, "--val_fraction", "0"]) == 1
    told = said(capsys)
    assert "for a model of its shape put this into the YAML of --config" in told
    settings = "model: {" + told.split("model: {")[1].split("}")[0] + "}"
    Path("f.yaml").write_text(f"{settings}\nepochs: 1\nwarmup_epochs: 0\nbatch_size: 4\nfps: 25\nmixup: 0\ncutmix: 0\n")
    assert main([*finetune, *workers, "--val_fraction", "0", "--config", "f.yaml"]) == 0, said(capsys)
    assert svfap.load_model("run").config.stem == "conv"


def test_evaluate_takes_the_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "0.mp4", frames([[(20, 20)] for _ in range(8)]))
    film(tmp_path / "1.mp4", frames([[(40, 20)] for _ in range(8)]))
    cells = [[f"{number}.mp4", number, *[" ".join([f"0.{number}"] * 8)] * 5] for number in range(2)]
    pd.DataFrame(cells, columns=["path", "subject", *MOVEMENT]).to_csv("test.csv", index=False)
    code = main(["evaluate", "--model", "movement", "--manifest", "test.csv", "--out", "e", "--num_workers", "0"])
    assert code == 0, said(capsys)
    assert json.loads(Path("e/metrics.json").read_text())["num_evaluated"] == 2
