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


def test_strict_type_checking_passes_a_right_user_script_and_finds_the_mistakes_of_a_wrong_one(tmp_path):
    """One run of mypy for both scripts: it reads the whole package, which takes longest."""
    (tmp_path / "right.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(MISTAKES)
    cache = str(SOURCE.parent / ".mypy_cache/strict")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "right.py", "wrong.py"]
    environment = {**os.environ, "MYPYPATH": str(SOURCE)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    errors = [line for line in said.splitlines() if ": error:" in line]
    assert sorted({tuple(line.split(":")[:2]) for line in errors}) == [("wrong.py", str(n)) for n in (4, 5, 6, 7)], said


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
