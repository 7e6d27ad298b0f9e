"""The public API: every name exists, is imported lazily, and has types for user scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import svfap

SOURCE = Path(svfap.__file__).parents[1]
SCRIPT = """
from pathlib import Path

import pandas as pd
import svfap

prepared = svfap.prepare("dfew", svfap.PrepareConfig(root=Path("downloads/DFEW"), out=Path("prepared/dfew")))
counts: list[int] = [int(count) for count in prepared.counts.values()]

pretrained = svfap.pretrain(svfap.PretrainConfig(out=Path("runs/pretrain"), manifest=Path("videos.csv"), resume=True))
finetuned = svfap.finetune(
    svfap.FinetuneConfig(out=Path("runs/dfew"), dataset=Path("prepared/dfew"), fold="1", init="runs/pretrain")
)
if pretrained.finished and finetuned.finished:
    evaluation = svfap.evaluate(svfap.EvaluateConfig(model="runs/dfew", manifest=Path("test.csv")))
    print(evaluation.metrics["uar"], evaluation.out.name)
pooled = svfap.pool(svfap.PoolConfig(out=Path("runs/dfew")))
table: pd.DataFrame = pooled.table
svfap.report([Path("runs/dfew")], svfap.ReportConfig(out=Path("report.html")))

predictions = svfap.predict_videos(["interview.mp4"], svfap.PredictConfig(model="runs/dfew", margin=0.2, out=None))
rows: pd.DataFrame = predictions.table
cropped = svfap.crop_videos(["recordings"], svfap.CropConfig(out=Path("faces"), num_workers=2))
print(cropped.num_clips + len(cropped.failures))
packed: Path = svfap.pack(Path("faces/manifest.csv"), svfap.PackConfig(out=Path("packed"), quality=85)).source
features = svfap.extract_features(["faces/manifest.csv"], svfap.ExtractConfig(model="runs/pretrain", out=None))
print(features.num_rows)
svfap.reconstruct("some.mp4", svfap.ReconstructConfig(model="runs/pretrain"))
svfap.convert("official.pth", Path("models/dfew_1"), svfap.ConvertConfig(dataset="dfew"))
exported = svfap.export_model("runs/dfew", svfap.ExportConfig(out=Path("model.onnx"), int8=True, check="test.csv"))
print(exported.out.name, exported.measured[0].top1_kept)
tables = svfap.experiment("masking", svfap.ExperimentConfig(out=Path("runs/experiments")))
print(tables["masking"].shape)
model: svfap.Model = svfap.load_model("runs/dfew", task="features")
predictor = svfap.Predictor(model)
"""
MISTAKES = """
import svfap

svfap.PredictConfig(model=3)
svfap.predict_videos(["a.mp4"], svfap.CropConfig(out="faces"))
svfap.evaluate(svfap.EvaluateConfig(model="m", manifests="test.csv"))
svfap.nonsense
"""


def strict_mypy(folder: Path, text: str) -> str:
    script = folder / "script.py"
    script.write_text(text)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(SOURCE.parent / ".mypy_cache/strict"),
        "script.py",
    ]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "MYPYPATH": str(SOURCE)}, capture_output=True, text=True
    )
    return done.stdout


def test_user_script_passes_strict_type_checking(tmp_path):
    assert "Success" in strict_mypy(tmp_path, SCRIPT)


def test_type_checking_finds_mistakes_in_user_script(tmp_path):
    found = [line.split(":")[1] for line in strict_mypy(tmp_path, MISTAKES).splitlines() if "error:" in line]
    assert sorted(set(found)) == ["4", "5", "6", "7"]


def test_every_public_name_exists():
    assert (
        {"predict_videos", "PredictConfig", "load_model"} <= set(svfap.__all__) == set(dir(svfap)) & set(svfap.__all__)
    )
    for name in svfap.__all__:
        assert getattr(svfap, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        svfap.nonsense  # noqa: B018


def test_modules_do_not_shadow_functions_of_the_same_name():
    import svfap.datasets.prepare
    import svfap.evaluation.evaluate
    import svfap.reports.report

    assert callable(svfap.prepare) and callable(svfap.evaluate) and callable(svfap.report)


def test_importing_the_package_imports_nothing_heavy():
    code = "import svfap, sys; assert not {'torch', 'numpy', 'pandas', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
