"""Labels of every frame: from side files or the manifest's own cells, through training, validation and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score

import svfap
from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.data.manifest_rows import ManifestError
from svfap.data.targets import all_targets
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import FinetuneTask, finetune

NAMES = ("smile", "rest")
QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0, epochs=1)


def first_frames(manifest, count: int) -> dict:
    data = ClipDataset(manifest, "val", 16, 1, 32, seed=0, frame_level=True)
    return data.collate([data[i] for i in range(count)])


@pytest.fixture(scope="module")
def labelled(faces, tmp_path_factory) -> Path:
    """The synthetic videos with a class for each frame, by name in train.csv, by number in the first side file of test.csv."""
    out = tmp_path_factory.mktemp("labelled")
    for part in ("train", "val", "test"):
        table = pd.read_csv(faces / f"{part}.csv")[["path", "frame_values", "subject"]]
        for row, side in enumerate(table["frame_values"]):
            smiles = pd.read_csv(faces / side)["valence"].to_numpy() + np.linspace(-1, 1, 24) > 0
            labels = np.where(smiles, *((0, 1) if part == "test" and row == 0 else NAMES))
            pd.DataFrame({"label": labels}).to_csv(out / f"{part}{row}.csv", index=False)
        table["frame_values"] = [str(out / f"{part}{row}.csv") for row in range(len(table))]
        table["path"] = [str(faces / path) for path in table["path"]]
        table.to_csv(out / f"{part}.csv", index=False)
    return out


def side_labels(folder: Path, part: str) -> list[np.ndarray]:
    sides = [pd.read_csv(path, dtype=str)["label"] for path in pd.read_csv(folder / f"{part}.csv")["frame_values"]]
    return [side.map({"0": 0, "1": 1, "smile": 0, "rest": 1}).to_numpy() for side in sides]


# classes -------------------------------------------------------------------------------------------------------------


def test_classes_of_frames_reach_the_batch(labelled):
    manifest = read_manifest(labelled / "test.csv", label_names=NAMES, frame_level=True)
    batch = first_frames(manifest, 3)
    assert batch["label"].dtype == torch.int64
    for row, labels in enumerate(side_labels(labelled, "test")[:3]):
        assert batch["label"][row].tolist() == labels[batch["frames"][row]].tolist()
    counted = np.concatenate(side_labels(labelled, "test"))
    assert np.array_equal(all_targets(manifest, frame_level=True), counted)


def test_a_clips_class_counts_for_all_frames_without_a_file_of_classes(faces):
    manifest = read_manifest(faces / "test.csv", frame_level=True)  # its side files hold values only
    batch = first_frames(manifest, 3)
    assert batch["label"].tolist() == [[label] * 16 for label in manifest.labels[:3]]


def test_a_classifier_of_frames_end_to_end(labelled, tmp_path):
    words = dict(**QUICK, manifest=labelled / "train.csv", val_manifest=labelled / "val.csv", batch_size=7)
    words |= dict(frame_level=True, label_names=list(NAMES), class_weights="balanced", out=tmp_path / "run")
    result = finetune(FinetuneConfig(**words))
    validation = result.metrics["last_validation"]
    assert result.metrics["chosen_by"] == "validation frame_uar"
    assert validation["frames"]["num_samples"] == 7 * 16
    assert validation["frame_uar"] == validation["frames"]["uar"]
    net = svfap.load_model(tmp_path / "run")
    assert net(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 16, 2)

    net.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    net.save_pretrained(tmp_path / "varied")
    model, manifest = str(tmp_path / "varied"), labelled / "test.csv"
    config = EvaluateConfig(model=model, manifest=manifest, out=tmp_path / "out", num_segments=1, precision="fp32")
    metrics = evaluate(config).metrics
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    data = ClipDataset(
        read_manifest(labelled / "test.csv", label_names=NAMES, frame_level=True),
        "test",
        16,
        1,
        32,
        0,
        1,
        frame_level=True,
    )
    batch = data.collate([data[i] for i in range(14)])
    with torch.inference_mode():
        clips = svfap.data.augment.normalize(batch["clips"], net.config.pixel_mean, net.config.pixel_std)
        said = net(clips).softmax(-1)
    truth, predicted = batch["label"].flatten(), said.argmax(-1).flatten()
    assert len(set(predicted.tolist())) == 2
    frames = metrics["frames"]
    assert frames["num_samples"] == 14 * 16
    assert frames["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert frames["uar"] == pytest.approx(recall_score(truth, predicted, average="macro"))
    np.testing.assert_allclose(table.filter(like="prob_"), said.mean(dim=1), atol=1e-4)
    assert table["label"].tolist() == [NAMES[int(row.float().mean() > 0.5)] for row in batch["label"]]
    assert "num_groups" not in metrics
    rows = pd.read_csv(tmp_path / "out" / "frames.csv")
    assert rows["path"].tolist() == [path for path in table["path"] for _ in range(16)]
    assert rows["frame"].tolist() == batch["frames"].flatten().tolist()
    assert rows["label"].tolist() == [NAMES[label] for label in truth]
    np.testing.assert_allclose(rows.filter(like="prob_"), said.flatten(0, 1), atol=1e-4)


def test_cross_entropy_is_of_every_frame(labelled, tmp_path):
    words = dict(**QUICK, manifest=labelled / "train.csv", val_fraction=0, batch_size=7, out=tmp_path, frame_level=True)
    words |= dict(label_names=list(NAMES), mixup=0, cutmix=0, smoothing=0, rand_augment=False)
    task = FinetuneTask(FinetuneConfig(**words))
    batch = task.dataset.collate([task.dataset[i] for i in range(3)])
    logits = torch.randn(3, 16, 2, generator=torch.Generator().manual_seed(0))
    (loss,) = task.losses(lambda clips: logits, batch, torch.Generator().manual_seed(0))
    by_hand = -logits.log_softmax(-1).gather(2, batch["label"][..., None]).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    mixed = FinetuneTask(FinetuneConfig(**{**words, "mixup": 0.8}))
    assert mixed.losses(lambda clips: logits, batch, torch.Generator().manual_seed(0))[0].item() != pytest.approx(
        loss.item()
    )
    with pytest.raises(UserError, match="balanced sampling needs a column 'label'"):
        FinetuneTask(FinetuneConfig(**words, balanced_sampling=True))


def test_files_of_classes_that_do_not_fit(labelled, faces, tmp_path):
    video = pd.read_csv(labelled / "train.csv")["path"][0]
    contents = {"stray": "smile\n" * 23 + "frown\n", "gap": "smile\n" * 8 + '""\n' + "rest\n" * 15, "short": "smile\n"}
    for name, rows in contents.items():
        (tmp_path / f"{name}.csv").write_text("label\n" + rows)
    (tmp_path / "other.csv").write_text("valence\n" + "1\n" * 24)
    names = (*contents, "other")
    (tmp_path / "list.csv").write_text(
        "path,start_s,frame_values\n" + "".join(f"{video},0.0{i},{name}.csv\n" for i, name in enumerate(names))
    )
    manifest = read_manifest(tmp_path / "list.csv", label_names=NAMES, frame_level=True)
    batch = first_frames(manifest, 4)
    reasons = [reason for _, _, reason in batch["unreadable"]]
    assert batch["keys"] == [f"{video}#t=0.01,"]
    assert [label == -1 for label in batch["label"][0]] == [frame == 8 for frame in batch["frames"][0]]
    parts = ("'frown' is not a known label; known are smile, rest", "1 rows, 24 pictures", "no column 'label'")
    assert len(reasons) == 3
    for name, reason, part in zip(("stray", "short", "other"), reasons, parts, strict=True):
        assert f"{name}.csv" in reason
        assert part in reason
    with pytest.raises(ManifestError, match="name them with `label_names`"):
        read_manifest(tmp_path / "list.csv", frame_level=True)
    with pytest.raises(ManifestError, match="no column 'label'"):
        read_manifest(tmp_path / "list.csv", label_names=NAMES)


# values --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells(faces, tmp_path_factory) -> Path:
    """The synthetic videos with their valence of every frame in a cell, and one arousal for all frames."""
    out = tmp_path_factory.mktemp("cells")
    for part in ("train", "val", "test"):
        table = pd.read_csv(faces / f"{part}.csv")
        table["valence"] = [" ".join(map(str, pd.read_csv(faces / side)["valence"])) for side in table["frame_values"]]
        table["path"] = [str(faces / path) for path in table["path"]]
        table[["path", "subject", "valence", "arousal"]].to_csv(out / f"{part}.csv", index=False)
    return out


def test_numbers_per_frame_in_cells(cells, faces):
    manifest = read_manifest(cells / "test.csv", task="regression", frame_level=True)
    assert manifest.dimensions == ("valence", "arousal")
    source = pd.read_csv(faces / "test.csv")
    truth = [pd.read_csv(faces / side)["valence"].to_numpy() for side in source["frame_values"]]
    batch = first_frames(manifest, 2)
    for row in range(2):
        np.testing.assert_allclose(batch["values"][row, :, 0], truth[row][batch["frames"][row]], atol=1e-6)
        np.testing.assert_allclose(batch["values"][row, :, 1], source["arousal"][row], atol=1e-6)
        assert manifest[row].values == pytest.approx((truth[row].mean(), source["arousal"][row]))
    part = manifest.subset([3, 1])
    assert np.array_equal(part[1].frame_numbers, manifest[1].frame_numbers)
    assert all_targets(manifest, frame_level=True).shape == (14 * 24, 2)


def test_cells_that_do_not_fit(tmp_path):
    path = tmp_path / "list.csv"
    for text, message in (
        ("a,1 2 3,4 5\n", "row 2, column 'y': number of frames is not the same in all of x, y"),
        ("a,1 2 3,1\nb,1 two,1\n", "row 3, column 'x': is not made of finite numbers"),
        ("a,1 nan 3,1\n", "row 2, column 'x': is not made of finite numbers"),
        ("a,1 2 3,\n", "row 2, column 'y': is missing"),
    ):
        path.write_text("path,x,y\n" + text)
        with pytest.raises(ManifestError) as caught:
            read_manifest(path, task="regression", dimensions=["x", "y"], frame_level=True)
        assert message in str(caught.value)
    path.write_text("path,x\na,1 2 3\n")
    with pytest.raises(ManifestError, match="column 'x': is not a finite number"):
        read_manifest(path, task="regression", dimensions=["x"])


def test_values_in_cells_end_to_end(cells, tmp_path):
    words = dict(**QUICK, manifest=cells / "train.csv", val_manifest=cells / "val.csv", batch_size=7, task="regression")
    words |= dict(frame_level=True, label_scaling="standardize", loss="ccc", out=tmp_path / "run")
    result = finetune(FinetuneConfig(**words))
    assert result.metrics["chosen_by"] == "validation frame_ccc"
    assert result.metrics["last_validation"]["frames"]["num_samples"] == 7 * 16
    config = svfap.load_model(tmp_path / "run").config
    every = [np.array(text.split(), float) for text in pd.read_csv(cells / "train.csv")["valence"]]
    assert config.output_offset[0] == pytest.approx(np.concatenate(every).mean(), abs=1e-5)
    assert config.output_scale[0] == pytest.approx(np.concatenate(every).std(), rel=1e-4)
    model, manifest = str(tmp_path / "run"), cells / "test.csv"
    config = EvaluateConfig(model=model, manifest=manifest, out=tmp_path / "out", num_segments=1, precision="fp32")
    metrics = evaluate(config).metrics
    assert metrics["frames"]["num_samples"] == 14 * 16
    data = ClipDataset(
        read_manifest(cells / "test.csv", task="regression", frame_level=True),
        "test",
        16,
        1,
        32,
        0,
        1,
        frame_level=True,
    )
    shown = data.collate([data[i] for i in range(14)])["frames"].numpy()
    cell = pd.read_csv(cells / "test.csv")["valence"]
    expected = [np.array(text.split(), float)[frames].mean() for text, frames in zip(cell, shown, strict=True)]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out" / "predictions.csv")["target_valence"], expected, atol=1e-5)
    rows = pd.read_csv(tmp_path / "out" / "frames.csv")
    assert rows.columns.tolist() == [
        "path",
        "frame",
        *(f"{k}_{d}" for k in ("target", "pred") for d in ("valence", "arousal")),
    ]
    error = (rows["target_valence"] - rows["pred_valence"]).abs().mean()
    assert metrics["frames"]["per_dimension"]["valence"]["mae"] == pytest.approx(error, abs=1e-5)
