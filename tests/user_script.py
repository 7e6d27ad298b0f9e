"""What users write, for the type checker: `mypy` reads it strictly with the package, and nothing runs it.

In the last function every line is a mistake that the checker has to find: an `ignore` without one is an error.
"""

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
svfap.register_transformers()


def mistakes() -> None:
    svfap.PredictConfig(model=3)  # type: ignore[arg-type]
    svfap.predict_videos(["a.mp4"], svfap.CropConfig(out="faces"))  # type: ignore[arg-type]
    svfap.evaluate(svfap.EvaluateConfig(model="m", manifests="test.csv"))  # type: ignore[call-arg]
    svfap.nonsense  # type: ignore[attr-defined] # noqa: B018
