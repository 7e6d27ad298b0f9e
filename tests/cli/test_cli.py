"""The command: the output of every verb on small data, and errors in one line without a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

import svfap
from svfap.cli.main import main
from svfap.data.video import open_video, write_video
from svfap.model.presets import PRESETS

TRAINING = ["--preset", "svfap_debug", "--sampling_stride", "1", "--epochs", "1", "--warmup_epochs", "0"]
TRAINING += ["--batch_size", "7", "--num_workers", "0", "--precision", "fp32"]
VERBS = ("synth", "pretrain", "finetune", "evaluate", "predict", "reconstruct", "info", "report")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def pretrained(faces, runs) -> Path:
    options = ["--manifest", str(faces / "pretrain.csv"), "--out", str(runs / "pretrain"), *TRAINING]
    assert main(["pretrain", *options, "--mask_ratio", "0.75"]) == 0
    return runs / "pretrain"


@pytest.fixture(scope="module")
def finetuned(faces, pretrained, runs) -> Path:
    settings = {"val_manifest": str(faces / "val.csv"), "init": str(pretrained), "betas": [0.9, 0.98], "base_lr": 9.0}
    (runs / "finetune.yaml").write_text(yaml.safe_dump({**settings, "model": {"num_bottleneck_tokens": [2, 2]}}))
    options = ["--config", str(runs / "finetune.yaml"), "--manifest", str(faces / "train.csv")]
    options += ["--out", str(runs / "finetune"), *TRAINING, "--base_lr", "0.03", "--rand_augment", "false"]
    assert main(["finetune", *options]) == 0
    return runs / "finetune"


@pytest.fixture
def video(faces) -> str:
    return str(faces / "videos" / "test_000000.mp4")


@pytest.fixture
def fails(capsys, monkeypatch, tmp_path_factory) -> Callable[..., str]:
    """Run the command, which must fail with the given status and one line of error; returns the line."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))  # results of a user may lie where the tests are started

    def run(*arguments: object, status: int = 1) -> str:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert code == status, printed.err
        assert "Traceback" not in printed.out + printed.err
        lines = [line for line in printed.err.splitlines() if "error:" in line]
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("svfap")
        assert printed.err.strip().splitlines()[-1] == lines[0]  # the error is the last line
        return lines[0]

    return run


# every verb ----------------------------------------------------------------------------------------------------------


def test_synth_writes_videos_and_manifests(tmp_path, capsys):
    counts = {"pretrain": 2, "train": 3, "val": 1, "test": 0}
    options = [part for split, count in counts.items() for part in (f"--num_{split}", str(count))]
    options += ["--size_px", "32", "--num_frames", "12", "--seed", "5"]
    assert main(["synth", str(tmp_path / "a"), *options]) == 0
    for split in ("pretrain", "train", "val"):
        table = pd.read_csv(tmp_path / "a" / f"{split}.csv")
        assert len(table) == counts[split]
        for path in table["path"]:
            with open_video(tmp_path / "a" / path) as source:
                assert (source.num_frames, source.width, source.height) == (12, 32, 32)
    assert json.loads((tmp_path / "a" / "synth.json").read_text())["seed"] == 5
    (tmp_path / "synth.yaml").write_text(
        yaml.safe_dump({"num_train": 3, "num_pretrain": 2, "num_val": 9, "num_test": 0})
    )
    rest = ["--config", str(tmp_path / "synth.yaml"), "--num_val", "1", *options[-6:]]
    assert main(["synth", str(tmp_path / "b"), *rest]) == 0
    for split in ("pretrain", "train", "val"):
        assert (tmp_path / "a" / f"{split}.csv").read_bytes() == (tmp_path / "b" / f"{split}.csv").read_bytes()


def test_pretrain_writes_a_run(pretrained):
    settings = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert (settings["batch_size"], settings["mask_ratio"], settings["epochs"]) == (7, 0.75, 1)
    model = svfap.load_model(pretrained)
    assert (model.config.task, model.config.mask_ratio, model.config.preset) == ("pretraining", 0.75, "svfap_debug")
    log = [json.loads(line) for line in (pretrained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line["kind"] == "train"] == [1, 2]  # 16 videos in batches of 7
    assert json.loads((pretrained / "metrics.json").read_text())["finished"]


def test_finetune_reads_a_config_file_and_flags_override_it(finetuned, faces, pretrained):
    settings = yaml.safe_load((finetuned / "config.yaml").read_text())
    assert settings["base_lr"] == 0.03
    assert settings["betas"] == [0.9, 0.98]
    assert settings["rand_augment"] is False
    assert settings["compile"] is False
    model = svfap.load_model(finetuned)
    assert model.config.label_names == tuple(sorted(set(pd.read_csv(faces / "train.csv")["label"])))
    assert model.config.provenance["init"] == str(pretrained)
    assert json.loads((finetuned / "metrics.json").read_text())["chosen_by"] == "validation uar"


def test_evaluate_prints_and_writes_its_scores(finetuned, faces, capsys):
    assert main(["evaluate", "--model", str(finetuned), "--manifest", str(faces / "test.csv")]) == 0
    out = finetuned / "evaluation"
    metrics = json.loads((out / "metrics.json").read_text())
    printed = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.out.splitlines() if "│" in line]
    scores = {name: value for name, value, _ in rows}
    assert float(scores["UAR, %"]) == pytest.approx(100 * metrics["uar"], abs=0.01)
    bounds = {name: text for name, _, text in rows}
    low, high = metrics["intervals"]["scores"]["uar"]
    assert bounds["UAR, %"] == f"[{100 * low:.2f}, {100 * high:.2f}]" and "bootstrap samples of the" in printed.err
    assert float(scores["Weighted F1, %"]) == pytest.approx(100 * metrics["weighted_f1"], abs=0.01)
    assert f"14 of 14 videos evaluated; results in {out}" in printed.err
    assert len(pd.read_csv(out / "predictions.csv")) == 14
    assert picture(out / "confusion.png").std() > 5


def picture(path: Path) -> np.ndarray:
    read = cv2.imread(str(path))
    assert read is not None, path
    return read


def test_predict_writes_the_same_table_in_every_format(finetuned, video, tmp_path, capsys):
    options = ["predict", video, "--model", str(finetuned), "--precision", "fp32", "--hop_s", "0.1", "--faces", "none"]
    for suffix in ("csv", "jsonl", "json", "parquet"):
        assert main([*options, "--out", str(tmp_path / f"table.{suffix}")]) == 0
    expected = svfap.Predictor(finetuned, "auto", "fp32", hop_s=0.1, faces="none")(video)
    assert len(expected) == 5  # 0, 2, 4 and 6 frames from the start, and the last 16
    expected.insert(0, "video", video)
    tables = [pd.read_csv(tmp_path / "table.csv"), pd.DataFrame(json.loads((tmp_path / "table.json").read_text()))]
    tables.append(pd.DataFrame([json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]))
    tables.append(pd.read_parquet(tmp_path / "table.parquet"))
    for table in tables:
        pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=0, atol=1e-13)
    assert picture(tmp_path / "table.png").std() > 5
    assert "5 rows; on average" in capsys.readouterr().err


def test_predict_takes_several_videos_and_skips_unreadable_ones(finetuned, faces, tmp_path, capsys):
    videos = [str(faces / "videos" / f"test_00000{number}.mp4") for number in (1, 0)]
    options = [
        "predict",
        videos[0],
        str(tmp_path / "none.mp4"),
        videos[1],
        "--model",
        str(finetuned),
        "--faces",
        "none",
    ]
    assert main([*options, "--out", str(tmp_path / "all.csv")]) == 1
    assert (
        capsys.readouterr().err.count(f"svfap predict: error: {tmp_path / 'none.mp4'}: no such file or folder\n") == 1
    )
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["video"].tolist() == [videos[0]] * 2 + [videos[1]] * 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["all.csv", "all.csv.about.json", "all_1_test_000001.png", "all_3_test_000000.png"]


def test_reconstruct_writes_a_picture_and_a_video(pretrained, video, tmp_path, capsys):
    assert main(["reconstruct", video, "--model", str(pretrained), "--out", str(tmp_path / "a"), "--seed", "1"]) == 0
    printed = capsys.readouterr().err
    loss = float(re.search(r"hidden tubelets ([\d.]+)", printed)[1])
    assert 0.5 < loss < 2
    assert picture(tmp_path / "a" / "reconstruction.png").std() > 5
    with open_video(tmp_path / "a" / "reconstruction.mp4") as source:
        assert (source.num_frames, source.width, source.height, source.fps) == (16, 96, 32, 25)
        frames = source.read(range(16)).astype(int)
    with open_video(video) as source:
        original = source.read(range(4, 20)).astype(int)
    assert np.abs(frames[:, :, :32] - original).mean() < 15  # encoded twice
    share_grey = (np.abs(frames[:, :, 32:64] - 128).max(axis=3) < 12).mean()
    assert 0.65 < share_grey < 0.9  # pre-trained with mask_ratio 0.75
    options = ["--out", str(tmp_path / "b"), "--seed", "1", "--mask_ratio", "0.25"]
    assert main(["reconstruct", video, "--model", str(pretrained), *options]) == 0
    with open_video(tmp_path / "b" / "reconstruction.mp4") as source:
        middle = source.read([8])[0, :, 32:64].astype(int)
    assert 0.1 < (np.abs(middle - 128).max(axis=2) < 12).mean() < 0.45


def test_info_lists_presets_by_their_full_names(capsys, monkeypatch):
    """The costs of one are enough: to count those of all takes seconds."""
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "stage_depths": (1,)}
    for name in set(PRESETS) - {"svfap_base"}:
        monkeypatch.setitem(PRESETS, name, small)
    assert main(["info"]) == 0
    rows = {cells[1].strip(): [c.strip() for c in cells[2:-1]] for line in capsys.readouterr().out.splitlines()
            if len(cells := line.split("│")) > 5}  # fmt: skip
    assert list(rows) == svfap.list_presets()
    assert rows["svfap_base"] == ["16×160×160", "512", "12+6+3", "77.63", "43.54", "12.92"]


def test_info_of_a_preset_and_of_a_saved_model(pretrained, capsys):
    assert main(["info", "svfap_debug"]) == 0
    printed = capsys.readouterr().out
    assert "fine-tuning (without head)" in printed
    assert "pre-training at 90% masking" in " ".join(printed.split())
    assert main(["info", str(pretrained)]) == 0
    saved = capsys.readouterr().out
    assert "75% masking" in " ".join(saved.split())
    count = sum(parameter.numel() for parameter in svfap.load_model(pretrained).parameters())
    assert f"{count / 1e6:.2f}" in re.search(r"parameters, M.*", saved)[0]
    assert main(["info", "svfap_debug", "--mask_ratio", "0.5"]) == 0
    assert "50% masking" in " ".join(capsys.readouterr().out.split())


def test_report_is_a_self_contained_page(finetuned, pretrained, tmp_path):
    options = [str(finetuned), str(pretrained), "--out", str(tmp_path / "page.html"), "--title", "Two <runs>"]
    assert main(["report", *options]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Two &lt;runs&gt;" in page
    assert page.count("data:image/png;base64,") >= 2
    assert ">finetune<" in page and ">pretrain<" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)  # no external resources


# help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("synth", ["out", "--config", "--num_train", "--size_px", "--seed", "--num_workers"]),
        ("pretrain", ["--config", "--manifest", "--out", "--preset", "--mask_ratio", "--resume", "--base_lr"]),
        (
            "finetune",
            ["--init", "--task", "--frame_level", "--mixup", "--rand_augment [{true,false}]", "--layer_decay"],
        ),
        ("evaluate", ["--model", "--manifest", "--num_segments", "--num_crops", "--out", "--precision"]),
        ("predict", ["videos", "--model", "--hop_s", "--faces", "--device", "--out", ".parquet"]),
        ("reconstruct", ["video", "--model", "--mask_ratio", "--seed"]),
        ("info", ["model", "--mask_ratio"]),
        ("report", ["runs", "--out", "--title"]),
    ],
)
def test_help_of_every_verb(verb, options, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert [option for option in options if option not in printed] == []


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert [verb for verb in VERBS if not re.search(rf"^ +{verb} ", printed, re.MULTILINE)] == []


def svfap_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_help_needs_no_torch():
    code = "import sys; from svfap.cli.main import main\ntry: main(['finetune', '--help'])\n"
    done = svfap_process("-c", code + "finally: print(sorted({'torch', 'matplotlib', 'sklearn'} & set(sys.modules)))")
    assert done.stdout.splitlines()[-1] == "[]"


# errors --------------------------------------------------------------------------------------------------------------


def test_the_exit_status_of_the_process(tmp_path, pretrained):
    done = svfap_process("-m", "svfap", "reconstruct", str(tmp_path / "none.mp4"), "--model", str(pretrained))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"svfap reconstruct: error: {tmp_path / 'none.mp4'}: no such file or folder\n"
    done = svfap_process("-m", "svfap", "reconstruct")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_an_interrupt_prints_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("svfap.weights.info.preset_table", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "svfap info: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_or_a_closed_terminal_stops_like_ctrl_c(number, monkeypatch, capsys):
    before = signal.getsignal(number)
    monkeypatch.setattr("svfap.weights.info.preset_table", lambda: signal.raise_signal(number))
    assert main(["info"]) == 128 + number
    assert capsys.readouterr().err == "svfap info: interrupted\n"
    assert signal.getsignal(number) is before


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def without_frames(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()


@pytest.fixture(scope="module")
def broken(faces, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    whole = (faces / "videos" / "test_000000.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    audio_only(folder / "audio.mp4")
    without_frames(folder / "zero.mkv")
    (folder / "bare").mkdir()
    (folder / "picture.png").write_bytes(b"\x89PNG no more")
    return folder


@pytest.mark.parametrize("verb", ["predict", "reconstruct"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file or folder"),
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "not a readable video"),
        ("truncated.mp4", "not a readable video|holds no video stream"),
        ("audio.mp4", "holds no video stream"),
        ("zero.mkv", "holds no pictures|not a readable video|holds no video stream"),
        ("bare", "the folder holds no pictures"),
        ("picture.png", "picture.png cannot be decoded as a picture"),
    ],
)
def test_unreadable_videos(verb, name, reason, broken, finetuned, pretrained, tmp_path, fails):
    model = finetuned if verb == "predict" else pretrained
    out = tmp_path / ("table.csv" if verb == "predict" else "out")
    line = fails(verb, broken / name, "--model", model, "--out", out)
    assert line.startswith(f"svfap {verb}: error: {broken / name}: ")
    assert re.search(reason, line)
    assert not out.exists()


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Videos of unusual sizes, and a truncated one that keeps its index."""
    folder = tmp_path_factory.mktemp("odd")
    random = np.random.default_rng(0)
    write_video(folder / "strip.mp4", [random.integers(0, 256, (30, 4000, 3), np.uint8) for _ in range(3)], 25)
    with av.open(str(folder / "dot.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "bgr0"
        for value in (0, 100, 200):
            dot = np.full((1, 1, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(dot, format="rgb24")))
        container.mux(stream.encode(None))
    frames = [np.full((32, 32, 3), 5 * number, np.uint8) for number in range(50)]
    write_video(folder / "whole.mkv", frames, 25)
    data = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    return folder


@pytest.mark.parametrize("name", ["dot.mkv", "strip.mp4"])
def test_unusual_sizes_work(name, odd, finetuned, pretrained, tmp_path):
    options = ["--model", str(finetuned), "--faces", "none", "--out", str(tmp_path / "table.csv")]
    assert main(["predict", str(odd / name), *options]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 1
    assert table["end_s"][0] == pytest.approx(0.12, abs=0.002)
    assert table.filter(like="prob_").sum(axis=1)[0] == pytest.approx(1, abs=1e-3)
    assert main(["reconstruct", str(odd / name), "--model", str(pretrained), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "reconstruction.mp4").stat().st_size > 0


def test_a_truncated_video_is_predicted_up_to_its_end(odd, finetuned, tmp_path):
    options = ["--model", str(finetuned), "--faces", "none", "--out", str(tmp_path / "table.csv")]
    assert main(["predict", str(odd / "cut.mkv"), *options]) == 0
    assert 0.5 < pd.read_csv(tmp_path / "table.csv")["end_s"].max() < 1.8


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("file,label\nvideos/test_000000.mp4,happy\n", "no column 'path' among file, label"),
        ("path,emotion\nvideos/test_000000.mp4,happy\n", "no column 'label'"),
        ("path,label\nvideos/test_000000.mp4,7\n", "row 2, column 'label': 7 is out of range; labels are 0 to 6"),
        ("path,label\nvideos/test_000000.mp4,-1\n", "-1 is out of range"),
        ("path,label\nvideos/test_000000.mp4,nan\n", "row 2, column 'label': is missing"),
        ("path,label\nvideos/test_000000.mp4,delighted\n", "'delighted' is not a known label"),
        ("path,label\na.mp4,happy\nb.mp4,sad\na.mp4,sad\n", "row 4, column 'path': 'a.mp4' is listed before"),
        ("path,label\n", "holds a header and no rows"),
        ("", "the file is empty"),
    ],
)
def test_invalid_manifests(lines, message, finetuned, faces, tmp_path, fails):
    manifest = tmp_path / "list.csv"
    manifest.write_text(lines)
    line = fails("evaluate", "--model", finetuned, "--manifest", manifest, "--out", tmp_path / "out", "--root", faces)
    assert line.startswith(f"svfap evaluate: error: {manifest}: ")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("path,valence\na.mp4,0.5\nb.mp4,nan\n", "row 3, column 'valence': is not a finite number"),
        ("path,valence\na.mp4,0.5\nb.mp4,\n", "row 3, column 'valence': is missing"),
        ("path,valence\na.mp4,high\n", "no column of numbers to learn"),
    ],
)
def test_invalid_regression_values(lines, message, tmp_path, fails):
    (tmp_path / "list.csv").write_text(lines)
    options = ["--manifest", tmp_path / "list.csv", "--out", tmp_path / "run", "--task", "regression", *TRAINING]
    assert message in fails("finetune", *options)


def test_output_paths_that_cannot_be_written(finetuned, pretrained, faces, video, tmp_path, fails, blank_figures):
    file = tmp_path / "file"
    file.write_text("in the way")
    model, manifest = ["--model", finetuned], ["--manifest", faces / "test.csv"]
    training = ["--manifest", faces / "pretrain.csv", *TRAINING]
    assert f"{file}" in fails("synth", file)
    assert f"out={file}: cannot write there" in fails("pretrain", *training, "--out", file)
    assert f"out={file}: cannot write there" in fails("evaluate", *model, *manifest, "--out", file)
    assert f"{file}" in fails("reconstruct", video, "--model", pretrained, "--out", file)
    assert "cannot write there" in fails("predict", video, *model, "--out", file / "table.csv")
    assert f"{file}" in fails("report", finetuned, "--out", file / "page.html")
    (tmp_path / "table.csv").mkdir()
    assert "is a folder; give the name of a file" in fails("predict", video, *model, "--out", tmp_path / "table.csv")
    assert file.read_text() == "in the way"


def test_a_model_for_another_task(finetuned, pretrained, faces, video, tmp_path, fails):
    assert "is for pretraining, not for prediction" in fails("predict", video, "--model", pretrained)
    assert "needs a pre-training model" in fails("reconstruct", video, "--model", finetuned, "--out", tmp_path)
    assert "is a pretraining model" in fails("evaluate", "--model", pretrained, "--manifest", faces / "test.csv")
    options = ["--manifest", faces / "train.csv", "--init", pretrained, "--out", tmp_path / "run", *TRAINING]
    options[options.index("svfap_debug")] = "svfap_tiny"
    line = fails("finetune", *options, "--val_fraction", "0")
    assert "the pre-trained encoder does not fit this model (embed_dim: 32 there, 192 here" in line


@pytest.mark.parametrize("verb", ["predict", "reconstruct", "evaluate", "info"])
def test_missing_models(verb, faces, video, tmp_path, fails):
    more = {"evaluate": ["--manifest", faces / "test.csv"], "info": []}.get(verb, [video])
    model = [] if verb == "info" else ["--model"]
    assert f"{tmp_path}: holds no model" in fails(verb, *more, *model, tmp_path)
    if verb != "info":
        assert f"{tmp_path / 'none'}: no such folder" in fails(verb, *more, *model, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_misspelt_names_get_a_suggestion(faces, video, tmp_path, fails):
    training = ["--manifest", faces / "pretrain.csv", "--out", tmp_path / "run"]
    assert "Did you mean 'batch_size'?" in fails("pretrain", *training, "--btach_size", 4, status=2)
    assert "Did you mean 'epochs'?" in fails("finetune", *training, "--epoch", 4, status=2)
    assert "Did you mean 'precision'?" in fails("predict", video, "--model", "m", "--precison", "fp32", status=2)
    (tmp_path / "typo.yaml").write_text("warmup_epcohs: 1\n")
    line = fails("pretrain", *training, "--config", tmp_path / "typo.yaml", status=2)
    assert "warmup_epcohs" in line and "Did you mean 'warmup_epochs'?" in line
    (tmp_path / "typo.yaml").write_text("num_trian: 1\n")
    assert "Did you mean 'num_train'?" in fails("synth", tmp_path / "x", "--config", tmp_path / "typo.yaml", status=2)
    assert "did you mean 'svfap_base'?" in fails("pretrain", *training, "--preset", "svfap_bsae")
    assert "did you mean 'img_size'?" in fails("pretrain", *training, "--preset", "svfap_debug", "--model.img_sise", 8)
    assert "neither a preset (svfap_base, svfap_small," in fails("info", "svfap_bsae")
    assert "Did you mean 'predict'?" in fails("predcit", status=2)
    assert not (tmp_path / "run").exists()


def test_missing_and_invalid_settings(faces, video, finetuned, tmp_path, fails):
    assert "required: --out" in fails("pretrain", "--manifest", faces / "pretrain.csv", status=2)
    assert "required: VIDEOS" in fails("predict", "--model", finetuned, status=2)
    training = ["pretrain", "--manifest", faces / "pretrain.csv", "--out", tmp_path / "run"]
    assert "--batch_size: Expected a whole number" in fails(*training, "--batch_size", "many", status=2)
    assert "--compile: Expected true or false" in fails(*training, "--compile", "perhaps", status=2)
    (tmp_path / "broken.yaml").write_text("batch_size: [\n")
    assert "broken.yaml: cannot be read as YAML" in fails(*training, "--config", tmp_path / "broken.yaml", status=2)
    assert "File does not exist" in fails(*training, "--config", tmp_path / "none.yaml", status=2)
    predict = ["predict", video, "--model", finetuned, "--out"]
    line = fails(*predict, tmp_path / "table.txt")
    assert "table.txt: the suffix must be one of .csv, .jsonl, .json, .parquet" in line
    table = tmp_path / "table.csv"
    assert "hop_s=-1.0" in fails(*predict, table, "--hop_s", -1)
    assert "batch_size=0" in fails(*predict, table, "--batch_size", 0)
    assert "--precision: Expected one of auto" in fails(*predict, table, "--precision", "fp8", status=2)
    assert "device=abacus" in fails(*predict, table, "--device", "abacus")
    assert not table.exists()


def test_report_needs_run_folders(tmp_path, finetuned, fails):
    assert f"{tmp_path / 'none'}: no such run folder" in fails("report", tmp_path / "none")
    assert "is it a run folder?" in fails("report", tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE")
def test_a_reader_of_the_output_may_end_before_it():
    """As `svfap models movement | head -1`."""
    command = [sys.executable, "-m", "svfap", "models", "movement"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")
