"""Features of videos and manifests: against the model itself on the same frames, and as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from expected_windows import window_indices
from PIL import Image

import svfap
from svfap.cli.main import main
from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.features import extract, extractor
from svfap.features.config import ExtractConfig
from svfap.features.extract import Extracted, extract_features
from svfap.model.base import Model

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WIDTH = 32  # of svfap_debug's features
CPU = {"device": "cpu", "precision": "fp32", "faces": "none"}  # for faces see test_extract_faces.py


def to_file(sources: object, model: Path, out: Path, **settings: Any) -> Extracted:
    return extract_features(sources, ExtractConfig(model=str(model), out=out, **CPU, **settings))  # type: ignore[arg-type]


def in_memory(sources: object, model: Model | Path | str, **settings: Any) -> pd.DataFrame:
    """The table of a model in memory, or of a saved one."""
    net = model if isinstance(model, Model) else None
    config = ExtractConfig(model=str(model) if net is None else "in memory", **{**CPU, **settings})
    table = extract_features(sources, config, net).table  # type: ignore[arg-type]
    assert table is not None
    return table


def model(task: str = "features", **overrides) -> Model:
    """Fresh weights, large enough that features differ from clip to clip; of the pictures, the central square is read."""
    torch.manual_seed(0)
    made = svfap.create_model("svfap_debug", task, **{"sampling_stride": 2, "frame_fit": "centre", **overrides}).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return made


def pictures(number: int, shift: int = 0, height: int = 32, width: int = 44) -> list[np.ndarray]:
    """Bands that drift and change their colour, so that no two frames are alike."""
    y, x = np.mgrid[:height, :width]
    waves = (
        [np.sin(0.2 * x + 0.3 * i + k) * np.cos(0.15 * y * (k + 1) + 0.05 * i) for k in range(3)]
        for i in range(shift, shift + number)
    )
    return [np.stack([127 + 120 * channel for channel in wave], axis=-1).astype(np.uint8) for wave in waves]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four videos of 25 frames a second, one of them no video, and manifests of them."""
    folder = tmp_path_factory.mktemp("extract")
    for name, number in (("a", 75), ("b", 20), ("c, d", 50)):
        write_video(folder / f"{name}.mp4", pictures(number, 10 * number), 25)
    (folder / "broken.mp4").write_text("no video")
    (folder / "all.csv").write_text(
        "path,label,valence,subject,split,age,note\n"
        '"c, d.mp4",joy,0.5,01,test,30,7\nb.mp4,calm,-1,02,train,,x\na.mp4,joy,0.25,01,train,41,8\n'
    )
    (folder / "parts.csv").write_text(
        "path,label,start_s,end_s,box\na.mp4,1,1.5,,\na.mp4,0,0.5,1.3,4 2 26 28\nb.mp4,1,,,\n"
    )
    (folder / "some.csv").write_text("path,label\nb.mp4,1\nbroken.mp4,0\nmissing.mp4,0\na.mp4,1\n")
    return folder


@pytest.fixture(scope="module")
def saved(folder) -> Path:
    model("classification", label_names=("joy", "calm")).save_pretrained(folder / "model")
    return folder / "model"


def prepared(frames: np.ndarray) -> torch.Tensor:
    """(T, 32, W, 3) uint8 -> (1, 3, T, 32, 32): the central square, normalised, without the product's code."""
    left = (frames.shape[2] - 32) // 2
    scaled = (frames[:, :, left : left + 32] / 255 - MEAN) / STD
    return torch.from_numpy(scaled.astype(np.float32)).permute(3, 0, 1, 2)[None]


@torch.inference_mode()
def by_hand(net: Model, video: Path, first: int = 0, stop: int | None = None, hop: int = 32) -> np.ndarray:
    """(windows, D): the model's features of each window of frames `first` to before `stop`, one by one."""
    with open_video(video) as source:
        frames = source.read(range(first, stop or source.num_frames))
    rows = window_indices(len(frames), 16, 2, hop)
    return torch.cat([net.features(prepared(frames[row])) for row in rows]).numpy()


def stacked(table: pd.DataFrame) -> np.ndarray:
    return np.stack(list(table["feature"]))


def close(actual: object, expected: object) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


# values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hop_s", "batch_size"), [(None, 8), (0.4, 3), (0.4, 1)])
def test_features_of_windows_are_the_models(folder, hop_s, batch_size):
    net = model()
    table = in_memory(folder / "a.mp4", net, hop_s=hop_s, batch_size=batch_size)
    hop = 10 if hop_s else 32
    expected = by_hand(net, folder / "a.mp4", hop=hop)
    close(stacked(table), expected)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # or the comparison would say little
    assert stacked(table).dtype == np.float32
    assert list(table.columns) == ["path", "start_s", "end_s", "feature"]
    assert set(table["path"]) == {str(folder / "a.mp4")}
    starts = window_indices(75, 16, 2, hop)[:, 0] / 25
    close(table["start_s"], starts)
    close(table["end_s"], starts + 31 / 25)


def test_a_video_is_the_mean_of_its_windows(folder):
    net = model()
    table = in_memory([folder / "a.mp4", folder / "b.mp4"], net, per="video")
    for row, name, end_s in ((0, "a", 3.0), (1, "b", 0.8)):
        close(table["feature"][row], by_hand(net, folder / f"{name}.mp4").mean(axis=0))
        close(table.loc[row, ["start_s", "end_s"]].to_numpy(float), [0, end_s])
    assert len(table) == 2


@torch.inference_mode()
def test_time_steps_are_rows_whose_mean_is_the_windows(folder):
    net = model()
    torch.nn.init.ones_(net.norm.weight)
    table = in_memory(folder / "a.mp4", net, pool="none")
    with open_video(folder / "a.mp4") as source:
        frames = source.read(range(75))
    windows = window_indices(75, 16, 2, 32)
    num_steps = net.encoder.num_output_time_steps
    assert num_steps > 1
    tokens = [net.encoder(prepared(frames[row])) for row in windows]
    expected = [net.norm(t[0].reshape(num_steps, -1, WIDTH).mean(dim=1)) for t in tokens]
    close(stacked(table), torch.cat(expected))
    assert not np.allclose(expected[0][0], expected[0][1], atol=1e-2)
    each = 16 // num_steps
    close(table["start_s"], windows[:, ::each].ravel() / 25)
    ends = np.concatenate([windows[:, each::each], windows[:, -1:] + 1], axis=1)
    close(table["end_s"], ends.ravel() / 25)


def test_padding_of_a_short_video_has_no_rows_of_its_own(folder):
    table = in_memory(folder / "b.mp4", model(), pool="none")
    each = 16 // model().encoder.num_output_time_steps
    assert each == 8
    close(table[["start_s", "end_s"]], [[0, 16 / 25], [16 / 25, 20 / 25]])  # frames 0 to 14, then 16 to 19
    write_video(folder / "brief.mp4", pictures(12), 25)
    table = in_memory(folder / "brief.mp4", model(), pool="none")
    close(table[["start_s", "end_s"]], [[0, 12 / 25]])


def test_spans_and_boxes_of_a_manifest_are_respected(folder):
    net = model()
    table = in_memory(folder / "parts.csv", net)
    close(stacked(table)[:2], by_hand(net, folder / "a.mp4", 38))
    close(table["start_s"][:2], [38 / 25, 44 / 25])  # the first frame shown from 1.5 s on
    with open_video(folder / "a.mp4") as source:
        inside = source.read(range(13, 33))[:, 2:30, 4:30]
    # Of the box (26 x 28 px) the central square, brought to 32 px, as a manifest with these frames alone would have it.
    from svfap.data.crops import fit_frames

    frames = fit_frames(inside, 32, "centre")[np.minimum(np.arange(0, 32, 2), 19)]
    with torch.inference_mode():
        close(table["feature"][2], net.features(prepared(frames))[0])
    close(table.loc[2, ["start_s", "end_s"]].to_numpy(float), [13 / 25, 33 / 25])
    close(table["feature"][3], by_hand(net, folder / "b.mp4")[0])
    assert list(table["label"]) == [1, 1, 0, 1]
    assert list(table["box"]) == ["", "", "4 2 26 28", ""]
    np.testing.assert_array_equal(table["sample_start_s"], [1.5, 1.5, 0.5, np.nan])
    np.testing.assert_array_equal(table["sample_end_s"], [np.nan, np.nan, 1.3, np.nan])


def test_whole_pictures_are_squashed_by_default(folder):
    net = model(frame_fit="squash")
    table = in_memory(folder / "b.mp4", net)
    with open_video(folder / "b.mp4") as source:
        frames = source.read(np.minimum(np.arange(0, 32, 2), 19))
    squashed = np.stack(
        [np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR)) for frame in frames]
    )
    with torch.inference_mode():  # Pillow rounds some pixels the other way
        np.testing.assert_allclose(table["feature"][0], net.features(prepared(squashed))[0], atol=0.02)
        assert (net.features(prepared(squashed)) - net.features(prepared(frames))).abs().max() > 0.2


def test_a_fine_tuned_model_gives_what_its_head_gets_and_a_pretrained_one_its_encoder(folder, saved):
    net = svfap.load_model(saved)
    torch.nn.init.normal_(net.norm.weight)  # as training would leave it
    net.save_pretrained(folder / "tuned")
    close(stacked(in_memory(folder / "a.mp4", folder / "tuned")), by_hand(net, folder / "a.mp4"))
    model("pretraining").save_pretrained(folder / "pretrained")
    encoder = svfap.load_model(folder / "pretrained", task="features")
    table = in_memory(folder / "a.mp4", folder / "pretrained")
    close(stacked(table), by_hand(encoder, folder / "a.mp4"))


# sources -------------------------------------------------------------------------------------------------------------


def test_a_manifests_columns_are_carried_over_in_its_order(folder):
    table = in_memory(folder / "all.csv", model(), per="video")
    assert list(table.columns) == [
        "path",
        "start_s",
        "end_s",
        "label",
        "valence",
        "subject",
        "split",
        "age",
        "note",
        "feature",
    ]
    assert list(table["path"]) == ["c, d.mp4", "b.mp4", "a.mp4"]
    assert list(table["label"]) == ["joy", "calm", "joy"]
    assert list(table["subject"]) == ["01", "02", "01"]
    assert list(table["split"]) == ["test", "train", "train"]
    assert list(table["valence"]) == [0.5, -1, 0.25]
    np.testing.assert_array_equal(table["age"], [30, np.nan, 41])
    assert list(table["note"]) == ["7", "x", "8"]
    close(stacked(table), [by_hand(model(), folder / path).mean(axis=0) for path in table["path"]])
    chosen = in_memory(folder / "all.csv", model(), per="video", split="train")
    assert list(chosen["path"]) == ["b.mp4", "a.mp4"]


def test_videos_and_manifests_may_be_mixed(folder, tmp_path):
    (tmp_path / "list.csv").write_text("path,subject\nb.mp4,s1\n")
    sources = [folder / "a.mp4", tmp_path / "list.csv"]
    table = in_memory(sources, model(), per="video", root=folder)
    assert list(table["path"]) == [str(folder / "a.mp4"), "b.mp4"]
    assert list(table["subject"]) == ["", "s1"]


def test_videos_that_cannot_be_read_are_counted_and_not_lost_silently(folder, saved, capsys):
    config = ExtractConfig(model=str(saved), per="video", **CPU)
    table, num_rows, num_videos, reasons = extract_features(folder / "some.csv", config)
    assert list(table["path"]) == ["b.mp4", "a.mp4"]
    assert (num_rows, num_videos) == (2, 4)
    assert set(reasons) == {str(folder / "broken.mp4"), str(folder / "missing.mp4")}
    assert reasons[str(folder / "missing.mp4")] == "no such file or folder"
    assert "2 of 4 videos could not be read" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 1 video could be read; the first is .*broken.mp4: not"):
        in_memory(folder / "broken.mp4", model())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "frame"}, "per='frame' is none of window, video"),
        ({"pool": "max"}, "pool='max' is none of mean, none"),
        ({"per": "video", "pool": "none"}, "a video's time steps are those of its windows"),
        ({"hop_s": 0.0}, "hop_s=0.0: "),
        ({"batch_size": 0}, "batch_size=0: "),
        ({"root": "x"}, "`root` and `split` are for manifests"),
        ({"device": "abacus"}, "device=abacus: "),
    ],
)
def test_settings_that_cannot_be_used(folder, settings, message):
    with pytest.raises(UserError, match=message) as error:
        in_memory(folder / "a.mp4", model(), **settings)
    assert "\n" not in str(error.value)


def test_sources_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4: comes twice"):
        in_memory([folder / "a.mp4", folder / "all.csv"], model())
    (tmp_path / "a.mp4").touch()
    (tmp_path / "m.csv").write_text("path,feature\na.mp4,1\n")
    with pytest.raises(UserError, match="column 'feature' of a manifest: the table has a column of this name"):
        in_memory(tmp_path / "m.csv", model())
    with pytest.raises(UserError, match="a model for pretraining has no features"):
        in_memory(folder / "a.mp4", model("pretraining"))


def test_random_weights_only_on_request(folder):
    with pytest.raises(UserError, match="model=svfap_debug: a preset has random weights, whose features say nothing"):
        in_memory(folder / "b.mp4", "svfap_debug")
    state = torch.random.get_rng_state()
    tables = [in_memory(folder / "b.mp4", "svfap_debug", random_weights=True) for _ in range(2)]
    np.testing.assert_array_equal(stacked(tables[0]), stacked(tables[1]))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_table_in_memory_may_be_made_by_other_processes(folder, saved):
    alone = in_memory(folder / "all.csv", saved, per="video")
    assert (alone["feature"].map(len) == WIDTH).all()
    several = in_memory(folder / "all.csv", saved, per="video", num_workers=1)
    close(stacked(several), stacked(alone))


def test_options_that_need_a_file_or_this_process(folder, saved):
    with pytest.raises(UserError, match="engine=ray: needs `out`"):
        in_memory(folder / "a.mp4", saved, engine="ray")
    with pytest.raises(UserError, match="model: a loaded model runs in this process"):
        in_memory(folder / "a.mp4", model(), num_workers=1)
    with pytest.raises(UserError, match="a loaded model runs in this process"):
        in_memory(folder / "a.mp4", model(), item_timeout_s=9)


# files ---------------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:  # nothing is pickled
            return dict(arrays)
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return {k: d.asstr()[:] if h5py.check_string_dtype(d.dtype) else d[:] for k, d in file.items()}
    table = pd.read_parquet(path)
    return {name: stacked(table) if name == "feature" else table[name].to_numpy() for name in table.columns}


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
@pytest.mark.parametrize("chunk_rows", [1, 4096])
def test_files_hold_the_table(folder, saved, tmp_path, monkeypatch, suffix, chunk_rows):
    if suffix == ".h5":
        pytest.importorskip("h5py", reason="the extra `h5` is not installed: HDF5 is not tested")
    monkeypatch.setattr(extract, "CHUNK_ROWS", chunk_rows)
    out = tmp_path / f"x{suffix}"
    written = to_file([folder / "all.csv"], saved, out)
    expected = in_memory(folder / "all.csv", saved)
    assert written == (None, len(expected), 3, {})
    found = read(out)
    assert set(found) == set(expected.columns)
    for name in expected.columns.drop("feature"):
        np.testing.assert_array_equal(found[name], expected[name].to_numpy())
    close(found["feature"], stacked(expected))
    assert found["feature"].dtype == np.float32
    assert found["feature"].shape == (len(expected), WIDTH)
    assert [file.name for file in tmp_path.iterdir()] == [out.name]  # neither parts nor temporary files


def test_parquet_has_vectors_of_fixed_size(folder, saved, tmp_path):
    import pyarrow.parquet as pq

    to_file([folder / "b.mp4"], saved, tmp_path / "x.parquet")
    kind = pq.read_schema(tmp_path / "x.parquet").field("feature").type
    assert (str(kind.value_type), kind.list_size) == ("float", WIDTH)


def test_an_interrupted_run_continues(folder, saved, tmp_path, monkeypatch):
    done: list[str] = []
    whole = extractor.Extractor.__call__

    def counted(self, sample, searched):
        done.append(sample.path.name)
        if sample.path.name == "a.mp4" and done.count("a.mp4") == 1:
            raise KeyboardInterrupt
        return whole(self, sample, searched)

    monkeypatch.setattr(extractor.Extractor, "__call__", counted)
    arguments = ([folder / "all.csv"], saved, tmp_path / "x.parquet")
    with pytest.raises(KeyboardInterrupt):
        to_file(*arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet.parts"]
    with pytest.raises(
        UserError, match=r"x\.parquet\.parts: was made with other settings \(hop_s: None then, 0\.4 now\)"
    ):
        to_file(*arguments, hop_s=0.4)
    to_file(*arguments)
    assert done == ["c, d.mp4", "b.mp4", "a.mp4", "a.mp4"]
    assert list(read(tmp_path / "x.parquet")["path"].astype(str))[-1] == "a.mp4"
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]


def test_the_command_lists_unreadable_videos_and_keeps_the_rest(folder, saved, tmp_path, capsys):
    out = tmp_path / "x.npz"
    args = ["extract", str(folder / "some.csv"), "--model", str(saved), "--out", str(out), "--device", "cpu"]
    args += ["--precision", "fp32", "--per", "video"]
    assert main([*args, "--num_workers", "1"]) == 1  # one, but a process of its own
    message = " ".join(capsys.readouterr().err.split())
    assert f"2 rows of 2 of 4 videos: {out}" in message
    assert f"2 videos could not be read, listed in {tmp_path / 'x.unreadable.csv'}" in message
    listed = pd.read_csv(tmp_path / "x.unreadable.csv").set_index("path")["reason"]
    assert listed[str(folder / "missing.mp4")] == "no such file or folder"
    assert listed[str(folder / "broken.mp4")].startswith("not a readable video")
    expected = in_memory(folder / "some.csv", saved, per="video")
    close(read(out)["feature"], stacked(expected))
    assert list(read(out)["path"]) == ["b.mp4", "a.mp4"]
    assert (tmp_path / "x.npz.parts").is_dir()  # the next run has only those two to try again
    (tmp_path / "good.csv").write_text("path,label\nb.mp4,1\na.mp4,0\n")
    assert main([*args[:1], str(tmp_path / "good.csv"), *args[2:], "--root", str(folder)]) == 0
    assert not (tmp_path / "x.npz.parts").exists()
    assert not (tmp_path / "x.unreadable.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "out=x.txt: the suffix must be one of .parquet, .npz, .h5"),
        (["--out", "."], "the suffix must be one of"),
        (["--model", "svfap_small"], "a preset has random weights"),
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--num_workers", "-1"], "num_workers=-1: must be at least 0"),
        (["--num_gpus", "1"], "num_gpus=1: is what a Ray task reserves"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_read(
    folder, saved, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", str(folder / "a.mp4"), "--model", str(saved), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_without_ray_or_h5py_the_extra_is_named(folder, saved, tmp_path, monkeypatch):
    for name in ("ray", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)  # which makes importing it an ImportError
    with pytest.raises(
        UserError, match=r"^engine=ray: needs the package ray; install it with pip install 'svfap\[ray\]'$"
    ):
        to_file([folder / "b.mp4"], saved, tmp_path / "x.npz", engine="ray")
    with pytest.raises(
        UserError, match=r"x\.h5: needs the package h5py; install it with pip install 'svfap\[h5\]', or use"
    ):
        to_file([folder / "b.mp4"], saved, tmp_path / "x.h5")
