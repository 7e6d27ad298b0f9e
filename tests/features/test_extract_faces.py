"""Features of the faces in a video: the same windows and crops as in prediction, and the rule which videos are searched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from fake_faces import SIZE, Spots, film, frames, model

from svfap.cli.main import main
from svfap.data.prepared import PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.features.config import ExtractConfig
from svfap.features.extract import extract_features
from svfap.predict.predictor import Predictor

BOX = ["box_x", "box_y", "box_w", "box_h"]
FACES = ["track", *BOX, "confidence"]


@pytest.fixture(autouse=True)
def spots(monkeypatch) -> None:
    """Every detector finds red squares."""
    monkeypatch.setattr("svfap.predict.predictor.make_detector", lambda *given: Spots())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """two.mp4: a face on the left, and after 0.8 s another on the right; none.mp4; 2 s each."""
    folder = tmp_path_factory.mktemp("videos")
    film(folder / "two.mp4", frames([[(8 + number // 10, 20), (64, 30)][: 1 + (number >= 20)] for number in range(50)]))
    film(folder / "none.mp4", frames([[]] * 50))
    model("features", label_names=()).save_pretrained(folder / "model")
    return folder


def extract(folder: Path, sources: Any, **settings: Any) -> pd.DataFrame:
    config = ExtractConfig(model=str(folder / "model"), device="cpu", precision="fp32", **settings)
    table = extract_features(sources, config).table
    assert table is not None
    return table


def stacked(table: pd.DataFrame) -> np.ndarray:
    return np.stack(list(table["feature"]))


def test_whole_pictures_for_a_model_of_face_crops_are_told_once(folder, tmp_path, capsys):
    model("features", label_names=(), face_crop={"margin": 0.3}).save_pretrained(tmp_path / "model")
    warning = "warning: faces=none: whole pictures go into a model that was trained on face crops"
    extract(tmp_path, [folder / "two.mp4", folder / "none.mp4"], faces="none")
    assert " ".join(capsys.readouterr().err.split()).count(warning) == 1
    extract(folder, folder / "two.mp4", faces="none")  # of that model nothing is known
    extract(tmp_path, folder / "two.mp4", faces="auto")
    assert warning not in " ".join(capsys.readouterr().err.split())


def test_a_video_has_a_row_for_each_window_of_each_face(folder, capsys):
    """As in prediction: the same windows and boxes, and features of the same crops."""
    table = extract(folder, folder / "two.mp4")
    assert "faces: 1 video: searched for faces (--faces chooses otherwise)" in " ".join(capsys.readouterr().err.split())
    assert list(table.columns) == ["path", "track", "start_s", "end_s", *BOX, "confidence", "feature"]
    classifier = model("classification")
    torch.nn.init.zeros_(classifier.head.bias)
    predictor = Predictor(classifier, "cpu", "fp32", None, faces=Spots())
    expected = predictor(folder / "two.mp4")
    assert set(expected["track"]) == {1, 2}
    pd.testing.assert_frame_equal(
        table[["track", "start_s", "end_s", *BOX, "confidence"]],
        expected[["track", "start_s", "end_s", *BOX, "confidence"]],
    )
    windows = [torch.from_numpy(window.frames)[None] for window in predictor.reader.windows(folder / "two.mp4")]
    encoder = model("features", label_names=())
    mean, std = (torch.tensor(values) for values in (encoder.config.pixel_mean, encoder.config.pixel_std))
    with torch.inference_mode():
        features = [encoder.features(((clip / 255 - mean) / std).permute(0, 4, 1, 2, 3)) for clip in windows]
    np.testing.assert_allclose(stacked(table), torch.cat(features), atol=1e-5)


def test_a_row_for_each_face_of_a_video(folder):
    table, windows = extract(folder, folder / "two.mp4", per="video"), extract(folder, folder / "two.mp4")
    assert table["track"].tolist() == [1, 2]
    for _, row in table.iterrows():
        own = windows[windows["track"] == row["track"]]
        np.testing.assert_allclose(row["feature"], stacked(own).mean(axis=0), atol=1e-6)
        assert (row["start_s"], row["end_s"]) == (own["start_s"].min(), own["end_s"].max())
        np.testing.assert_allclose(row[BOX].to_numpy(float), own[BOX].mean())


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_files_have_the_columns_of_faces(folder, tmp_path, suffix):
    if suffix == ".h5":
        h5py = pytest.importorskip("h5py")
    table = extract(folder, folder / "two.mp4")
    out = tmp_path / f"features{suffix}"
    config = ExtractConfig(model=str(folder / "model"), device="cpu", precision="fp32", out=out)
    assert extract_features(folder / "two.mp4", config).num_rows == len(table)
    if suffix == ".parquet":
        read = {name: pd.read_parquet(out)[name].to_numpy() for name in FACES}
    elif suffix == ".npz":
        read = dict(np.load(out))
    else:
        with h5py.File(out) as file:
            read = {name: file[name][:] for name in FACES}
    for name in FACES:
        np.testing.assert_array_equal(read[name], table[name], err_msg=name)


def test_rows_of_manifests_are_face_crops_as_in_training(folder, tmp_path, capsys):
    (folder / "list.csv").write_text("path,label\ntwo.mp4,joy\n")
    table = extract(folder, folder / "list.csv")
    told = " ".join(capsys.readouterr().err.split())
    assert "faces: 1 row of manifests: read as in training, as face crops (--faces chooses otherwise)" in told
    assert list(table.columns) == ["path", "start_s", "end_s", "label", "feature"]
    whole = extract(folder, folder / "two.mp4", faces="none")
    assert "faces:" not in capsys.readouterr().err  # the user has chosen
    np.testing.assert_array_equal(stacked(table), stacked(whole))
    assert np.abs(stacked(extract(folder, folder / "two.mp4"))[0] - stacked(whole)[0]).max() > 1e-3
    searched = extract(folder, folder / "list.csv", faces="haar")
    assert searched["track"].tolist() == extract(folder, folder / "two.mp4")["track"].tolist()
    assert set(searched["label"]) == {"joy"}


def test_crops_that_are_not_like_those_of_the_training_are_told_as_in_evaluation(folder, tmp_path, capsys):
    model("features", label_names=(), face_crop={"margin": 0.3}).save_pretrained(tmp_path / "model")
    (tmp_path / "x" / "clips").mkdir(parents=True)
    film(tmp_path / "x" / "clips" / "a.mp4", frames([[(36, 24)]] * 50))
    (tmp_path / "x" / "crop.json").write_text('{"margin": 0.6}')
    (tmp_path / "own.csv").write_text("path\nx/clips/a.mp4\n")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "test.csv").write_text(f"path\n{folder / 'two.mp4'}\n")

    def told(*sources: Path, **settings: Any) -> str:
        extract(tmp_path, list(sources), **settings)
        return " ".join(capsys.readouterr().err.split())

    differing = f"{tmp_path / 'x'}: the faces were cut out with margin 0.6, those of the model's training with 0.3"
    assert differing in told(tmp_path / "own.csv")
    assert f"nothing says how those of {tmp_path / 'whole' / 'test.csv'} were cut" in told(
        tmp_path / "whole" / "test.csv"
    )
    described = PreparedDataset("own", "Own", "unlabelled", Path("."), pretrain=Path("test.csv"), pictures="frames")
    write_dataset_file(tmp_path / "whole", described)
    assert "cut" not in told(tmp_path / "whole" / "test.csv", faces="haar")  # they are searched for faces
    assert "the clips of Own are whole frames, not faces" in told(tmp_path / "whole" / "test.csv", faces="none")


def test_clips_of_svfap_crop_are_face_crops(folder, tmp_path, capsys):
    (tmp_path / "clips" / "a").mkdir(parents=True)
    film(tmp_path / "clips" / "a" / "001.mp4", frames([[(36, 24)]] * 50))
    extract(folder, tmp_path / "clips")
    assert "1 video: searched" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "crop.json").write_text(json.dumps({"margin": 0.3}))
    table = extract(folder, [tmp_path / "clips", folder / "two.mp4"])
    told = " ".join(capsys.readouterr().err.split())
    assert "1 clip of `svfap crop`: face crops; 1 video: searched for faces" in told
    assert table["track"].tolist()[:3] == [0, 0, 0]
    height, width = SIZE
    assert table.loc[0, BOX].tolist() == [0, 0, width, height]  # the whole picture


def test_boxes_of_samples_lie_in_the_whole_picture(folder):
    (folder / "right.csv").write_text("path,box,start_s\ntwo.mp4,50 10 46 60,1\n")
    table = extract(folder, folder / "right.csv", faces="haar")
    both = extract(folder, folder / "two.mp4")
    second = both[both["track"] == 2]
    assert set(table["track"]) == {1}
    np.testing.assert_allclose(table[BOX].mean(), second[BOX].mean(), atol=1.5)
    assert table["start_s"].min() == 1


def test_a_video_without_a_face_is_listed_and_not_lost_silently(folder, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    arguments = ["extract", str(folder / "two.mp4"), str(folder / "none.mp4"), "--model", str(folder / "model")]
    assert main([*arguments, "--out", str(out), "--precision", "fp32"]) == 1
    listed = pd.read_csv(tmp_path / "features.unreadable.csv")
    assert listed["path"].tolist() == [str(folder / "none.mp4")]
    assert "no face found; --faces none uses the whole picture as a face" in listed["reason"][0]
    assert set(pd.read_parquet(out)["path"]) == {str(folder / "two.mp4")}


def test_a_column_of_a_manifest_may_not_be_lost(folder):
    (folder / "tracks.csv").write_text("path,track\ntwo.mp4,7\n")
    assert extract(folder, folder / "tracks.csv")["track"].tolist()[0] == 7
    with pytest.raises(UserError, match="column 'track' of a manifest: the table has a column of this name"):
        extract(folder, folder / "tracks.csv", faces="haar")


def test_settings_of_faces_and_rates_matter(folder):
    base = extract(folder, folder / "two.mp4")
    for settings in ({"margin": 1.0}, {"border": "reflect", "margin": 1.0}, {"fps": 10.0}):
        other = extract(folder, folder / "two.mp4", **settings)
        assert len(other) != len(base) or np.abs(stacked(other) - stacked(base)).max() > 1e-3, settings
    wide, mirrored = (extract(folder, folder / "two.mp4", margin=1.0, border=b) for b in ("replicate", "reflect"))
    assert np.abs(stacked(wide) - stacked(mirrored)).max() > 1e-4
    late = extract(folder, folder / "two.mp4", detect_every=25)
    assert not np.allclose(late[BOX].to_numpy()[0], base[BOX].to_numpy()[0])


def test_folders_of_frames_have_the_rate_that_the_user_states(folder, tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames([[(20, 20)]] * 40)):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), frame[..., ::-1])
    for frames_fps, lasts in ((None, 16 / 25), (20.0, 16 / 20)):
        table = extract(folder, tmp_path / "clip", faces="none", frames_fps=frames_fps)
        assert table["end_s"][0] - table["start_s"][0] == pytest.approx(lasts)
        assert ("read as 25 pictures per second" in " ".join(capsys.readouterr().err.split())) == (frames_fps is None)


def test_frames_are_taken_at_the_rate_of_the_training(folder, tmp_path):
    """At 12.5 a second a window of 16 frames lasts 1.28 s."""
    model("features", label_names=(), frame_rate=12.5).save_pretrained(tmp_path / "model")
    lasts = [extract(place, folder / "two.mp4", faces="none") for place in (folder, tmp_path)]
    assert [table["end_s"][0] - table["start_s"][0] for table in lasts] == pytest.approx([0.64, 1.28])


def test_a_complete_table_is_replaced_only_on_request(folder, tmp_path):
    out = tmp_path / "f.parquet"

    def extracted(name: str, **more: Any) -> int:
        config = ExtractConfig(model=str(folder / "model"), device="cpu", precision="fp32", out=out, **more)
        return extract_features(folder / name, config).num_rows

    assert extracted("two.mp4", faces="none") > 0
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"f\.parquet: exists; choose another --out, or --overwrite to replace it"):
        extracted("none.mp4", faces="none")
    assert out.read_bytes() == before
    extracted("none.mp4", faces="none", overwrite=True)
    assert set(pd.read_parquet(out)["path"]) == {str(folder / "none.mp4")}


@pytest.mark.parametrize("suffix", ["parquet", "npz", "h5"])
def test_a_name_that_is_not_utf8_is_escaped_in_the_table(folder, suffix, tmp_path):
    os.symlink(os.fsencode(folder / "two.mp4"), os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    out = tmp_path / f"features.{suffix}"
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    config = ExtractConfig(model=str(folder / "model"), device="cpu", precision="fp32", faces="none", out=out)
    extract_features(name, config)
    if suffix == "parquet":
        paths = pd.read_parquet(out)["path"]
    elif suffix == "npz":
        paths = np.load(out)["path"]
    else:
        paths = [path.decode() for path in h5py.File(out)["path"][:]]
    assert {Path(path).name for path in paths} == {r"caf\udce9.mp4"}
