"""Every verb reports errors that can be found without torch before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import contextlib, io, json, sys
from svfap.cli.main import main

results = []
for argv in json.loads(sys.argv[1]):
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            status = main(argv)
        except SystemExit as stop:
            status = stop.code
    results.append((status, printed.getvalue(), "torch" in sys.modules))
print(json.dumps(results))
"""


def test_errors_are_reported_without_torch(tmp_path):
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "log.jsonl").touch()
    (tmp_path / "clip.png").touch()
    (tmp_path / "videos.csv").write_text("path\nclip.png\n")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 310000000\n")
    lfs = str(tmp_path / "lfs.pth")
    (tmp_path / "text.onnx").write_text("none\n")
    onnx = str(tmp_path / "text.onnx")
    exported = "is an exported model, which predict, extract and evaluate run; here name the run or folder"
    none, videos = str(tmp_path / "none"), str(tmp_path / "videos.csv")
    training = ["--manifest", videos, "--preset", "svfap_debug", "--out"]
    cases = [
        (["pretrain", *training, str(tmp_path / "new"), "--bach_size", "4"], 2, "Did you mean 'batch_size'?"),
        (["pretrain", *training, str(tmp_path / "run")], 1, "holds a run already"),
        (["pretrain", "--manifest", videos, "--out", none, "--preset", "svfap_huge"], 1, "unknown preset 'svfap_huge'"),
        (["pretrain", "--manifest", none, "--out", none], 1, f"manifest={none}: no such file"),
        (["finetune", *training, none, "--init", none], 1, f"init={none}: no such folder"),
        (["evaluate", "--model", none, "--manifest", videos], 1, f"model={none}: no such folder"),
        (["predict", str(tmp_path / "clip.png"), "--model", none], 1, f"model={none}: no such folder"),
        (["predict", none, "--model", str(tmp_path / "run")], 1, f"{none}: no such file or folder"),
        (["predict", none, "--model", none, "--out", "a.txt"], 1, "out=a.txt: the suffix must be one of .csv"),
        (["predict", none, "--model", none, "--report", "a.pdf"], 1, "report=a.pdf: the suffix must be one of .html"),
        (["extract", videos, "--model", none], 1, f"--model={none}: no such folder"),
        (["extract", none, "--model", str(tmp_path / "run")], 1, f"{none}: no such file or folder"),
        (["extract", videos, "--model", none, "--out", "a.csv"], 1, "out=a.csv: the suffix must be one of .parquet"),
        (["reconstruct", str(tmp_path / "clip.png"), "--model", none], 1, f"model={none}: no such folder"),
        (["convert", none, str(tmp_path / "out")], 1, f"{none}: no such file or folder"),
        (["convert", videos, str(tmp_path / "out")], 1, f"{videos}: not a checkpoint but a text file"),
        (["convert", str(tmp_path / "run"), str(tmp_path / "run")], 1, f"{tmp_path / 'run'}: exists already"),
        (
            ["convert", lfs, str(tmp_path / "out")],
            1,
            f"{lfs}: not a checkpoint but a git-lfs pointer; run `git lfs pull`",
        ),
        (["info", lfs], 1, f"{lfs}: not a checkpoint but a git-lfs pointer; run `git lfs pull`"),
        (["export", none], 1, f"model={none}: no such folder"),
        (["export", none, "--out", f"{none}/m.onnx"], 1, f"--out={none}/m.onnx: there is no folder {none}"),
        (["export", none, "--out", "m.pt"], 1, "out=m.pt: the suffix must be one of .onnx"),
        (["info", "svfap_huge"], 1, "is neither a preset"),
        (["info", onnx], 1, f"{onnx}: not an ONNX file but a text file; get the model's file again"),
        (["info", "none.onnx"], 1, "model=none.onnx: no such file; `svfap export` writes one"),
        (
            ["evaluate", "--model", "none.onnx", "--manifest", videos],
            1,
            "model=none.onnx: no such file; `svfap export`",
        ),
        (["finetune", *training, none, "--init", onnx], 1, f"--init={onnx}: {exported}"),
        (["probe", onnx, "--manifest", videos], 1, f"run={onnx}: {exported}"),
        (["reconstruct", str(tmp_path / "clip.png"), "--model", onnx], 1, f"--model={onnx}: {exported}"),
        (["convert", onnx, str(tmp_path / "out")], 1, f"{onnx}: {exported}"),
        (["experiment", "masking", "--weights", onnx, "--out", none], 1, f"--weights={onnx}: {exported}"),
        (["export", onnx, "--out", "m.onnx"], 1, f"model={onnx}: {exported}"),
        (
            ["pack", "s3://bucket/data", "--out", none],
            1,
            "error: s3://bucket/data: is a URL; videos are packed from this",
        ),
        (
            ["pack", str(tmp_path / "clip.png"), "--out", none],
            1,
            "clip.png: is no manifest; give a CSV with a column path",
        ),
        (["report", none], 1, f"{none}: no such run folder"),
        (["pool", none], 1, f"{none}: holds no folds.json"),
        (["pool", "--models", none, "--dataset", none, "--out", none], 1, "dataset.json"),
        (["experiment", "everything"], 1, "experiment 'everything' is none of"),
        (["prepare", "dfew", "--root", none, "--out", none], 1, f"root={none}: is not a folder"),
        (["crop", none, "--out", str(tmp_path / "faces")], 1, f"{none}: no such file or folder"),
        (["synth", none, "--size_px", "31"], 1, "size_px=31: must be at least 32"),
    ]
    command = [sys.executable, "-c", CODE, json.dumps([argv for argv, _, _ in cases])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (argv, status, message), (found, text, torch) in zip(cases, json.loads(done.stdout), strict=True):
        assert (found, torch) == (status, False), f"{argv}: {text}"
        assert message in text and len(text.strip().splitlines()) == 1, f"{argv}: {text}"
