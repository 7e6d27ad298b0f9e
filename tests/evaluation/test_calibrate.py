"""`svfap calibrate`: the temperature, what becomes of the model, which videos it is fitted on, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy.special import softmax

import svfap
from svfap.cli.main import main
from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.split import carve_validation
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.evaluation.calibrate import _Outputs, _say_doubts, calibrate
from svfap.evaluation.card import card_of
from svfap.evaluation.config import CalibrateConfig, EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.reliability import HIGHEST, LOWEST, fit_temperature, is_at_bound, log_likelihood_loss
from svfap.model.config import Head
from svfap.model.perceiver import Perceiver

NAMES = ("calm", "fear", "joy")
CONFIG = CalibrateConfig(precision="fp32")


# The temperature ------------------------------------------------------------------------------------------------------


def test_logits_that_are_twice_too_large_have_temperature_2():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (40_000, 4))
    labels = (softmax(true, axis=1).cumsum(axis=1) < rng.random((len(true), 1))).sum(axis=1)
    assert fit_temperature(labels, true) == pytest.approx(1, abs=0.03)
    assert fit_temperature(labels, 2 * true + rng.normal(size=(len(true), 1))) == pytest.approx(2, abs=0.06)
    # No other temperature has a smaller loss, which is that of torch.
    best = fit_temperature(labels[:50], 2 * true[:50])
    losses = [log_likelihood_loss(labels[:50], 2 * true[:50], best * factor) for factor in (0.99, 1, 1.01)]
    assert losses[1] == min(losses)
    expected = torch.nn.functional.cross_entropy(torch.tensor(2 * true[:50]) / best, torch.tensor(labels[:50]))
    assert losses[1] == pytest.approx(expected.item())


def test_a_temperature_that_has_no_best_value_is_at_a_bound():
    logits = np.eye(3)[[0, 1, 2, 0]]
    lowest, highest = fit_temperature([0, 1, 2, 0], logits), fit_temperature([1, 2, 0, 1], logits)
    assert lowest == pytest.approx(LOWEST, rel=1e-3) and highest == pytest.approx(HIGHEST, rel=1e-3)
    assert is_at_bound(lowest) and is_at_bound(highest) and not is_at_bound(1.0)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (np.eye(3)[[0, 1, 2]], [0, 1, 2], "0.05, is the lowest that is tried: all are told apart"),
        (np.eye(3)[[0, 0, 0, 1, 2]] / 1e4, [0, 0, 1, 1, 2], "lowest that is tried: the probabilities hardly differ"),
        (np.eye(3)[[0, 1, 2]], [1, 2, 0], "20, is the highest that is tried: the outputs say nothing"),
    ],
)
def test_a_temperature_at_a_bound_is_told(logits, labels, said, capsys):
    outputs = _Outputs(np.array(labels), logits, np.array(["p"] * len(labels), object), 30)
    _say_doubts("", fit_temperature(labels, logits), outputs)
    assert said in capsys.readouterr().err


# The model ------------------------------------------------------------------------------------------------------------


def base(task: str = "classification", **settings: Any) -> Perceiver:
    """A model of random weights, all but the last layer the same in each."""
    model = svfap.create_model("svfap_debug", task, **settings)
    assert isinstance(model, Perceiver)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """30 pictures of 15 people, 24 of them for training and 6 for testing, as a manifest with a split and as a dataset; and a
    model of their classes, which is right in three of four."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((32, 32), 0).save(folder / f"{number}.png")
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(30)], "label": [NAMES[n % 3] for n in range(30)]})
    rows.to_csv(folder / "all.csv", index=False)
    model = base(label_names=NAMES)
    model.save_pretrained(folder / "model")
    read = EvaluateConfig(
        model=str(folder / "model"), manifest=folder / "all.csv", out=folder / "out", num_segments=1, num_crops=1
    )
    features = torch.from_numpy(np.load(evaluate(read).out / "features.npz")["features"])
    with torch.no_grad():
        logits = features @ model.head.weight.T
        model.head.weight.mul_(3 / logits.std(dim=0)[:, None])
        model.head.bias.copy_(-3 * logits.mean(dim=0) / logits.std(dim=0))
        order = model.head(features).argsort(dim=1, descending=True)
    model.save_pretrained(folder / "model")
    rows["label"] = [NAMES[order[n, int(n % 4 == 0)]] for n in range(30)]
    rows["mood"] = np.where((rows["label"] == "joy") ^ (rows.index % 5 == 0), "good", "bad")
    rows["valence"] = np.linspace(-1, 1, 30)
    rows["subject"] = [f"p{n // 2}" for n in range(30)]
    rows["split"] = ["train"] * 24 + ["test"] * 6
    rows.to_csv(folder / "all.csv", index=False)
    parts = {"train": rows[:12], "val": rows[12:24], "test": rows[24:]}
    for name, part in parts.items():
        part.drop(columns="split").to_csv(folder / f"{name}.csv", index=False)
    folds = (Fold("a", *(Path(f"{name}.csv") for name in ("train", "test", "val"))), Fold("b", Path("train.csv")))
    write_dataset_file(
        folder, PreparedDataset("own", "Own", "classification", Path("."), NAMES, folds, metrics=("uar",))
    )
    return folder


def run(folder: Path, data: Path, model: Perceiver | None = None, **settings: Any) -> str:
    """A folder as training leaves it, as far as calibration reads it."""
    (model or svfap.load_model(data / "model")).save_pretrained(folder / "best")
    (folder / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, "preset": "svfap_debug", **settings}))
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def without_what_calibration_does_not_read():
    """Intervals and figures of the evaluations, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svfap.evaluation.predictions.subject_scores", lambda *args: {})
        patch.setattr("svfap.evaluation.evaluate.save_figure", lambda *args: None)
        yield


def files_of(folder: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def probabilities(model: Path | str, data: Path, out: Path) -> np.ndarray:
    one = EvaluateConfig(
        model=str(model), manifest=data / "val.csv", out=out, num_segments=1, num_crops=1, precision="fp32"
    )
    return pd.read_csv(evaluate(one).out / "predictions.csv")[[f"prob_{name}" for name in NAMES]].to_numpy()


@pytest.fixture(scope="module")
def calibrated(data, tmp_path_factory) -> tuple[str, Any]:
    """A run of the dataset, and what the command writes of it."""
    here = run(
        tmp_path_factory.mktemp("runs") / "run", data,
        dataset=str(data), fold="a", manifest=str(data / "train.csv"), val_manifest=str(data / "val.csv"), root=str(data),
    )  # fmt: skip
    before = files_of(here)
    done = calibrate(here, CONFIG)
    assert before.items() <= files_of(here).items()  # the run is as it was
    return here, done


def test_evaluate_and_predict_of_the_result_are_calibrated(calibrated, data, tmp_path):
    here, done = calibrated
    assert done.out == Path(here) / "calibrated"
    temperature = done.temperatures[""]
    assert temperature != pytest.approx(1, abs=0.05)
    before, after = (probabilities(model, data, tmp_path / name) for name, model in (("b", here), ("a", done.out)))
    np.testing.assert_allclose(after, softmax(np.log(before) / temperature, axis=1), atol=1e-6)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    labels = [NAMES.index(label) for label in pd.read_csv(data / "val.csv")["label"]]
    assert temperature == pytest.approx(fit_temperature(labels, np.log(before)), rel=1e-4)
    shown = []
    for number, model in enumerate((here, done.out)):
        out = tmp_path / f"{number}.csv"
        config = svfap.PredictConfig(model=str(model), faces="none", out=out, precision="fp32")
        shown.append(
            svfap.predict_videos(data / "13.png", config).table[[f"prob_{name}" for name in NAMES]].to_numpy(float)
        )
        is_told = (
            f"calibrated with the temperature {temperature:.3g}."
            in out.with_name(f"{number}.csv.about.json").read_text()
        )
        assert is_told == (number == 1)
    np.testing.assert_allclose(shown[1], softmax(np.log(shown[0]) / temperature, axis=1), atol=1e-6)


def test_a_model_of_twice_the_logits_has_twice_the_temperature_and_becomes_the_same(calibrated, data, tmp_path):
    here, done = calibrated
    model = svfap.load_model(here)
    assert isinstance(model, Perceiver)
    model.divided_by({"": 0.5}).save_pretrained(tmp_path / "twice")
    again = calibrate(str(tmp_path / "twice"), replace(CONFIG, dataset=data, fold="a"))
    assert again.temperatures[""] == pytest.approx(2 * done.temperatures[""], rel=1e-4)
    heads = [svfap.load_model(each).head.weight for each in (again.out, done.out)]
    torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-6)
    # A second time there is nothing left to do, and the model's temperature is that of both together.
    third = calibrate(str(again.out), replace(CONFIG, dataset=data, fold="a", out=tmp_path / "third"))
    assert third.temperatures[""] == pytest.approx(1, rel=1e-4)
    known = svfap.load_model(third.out).config.provenance["temperature"]
    assert known == pytest.approx(again.temperatures[""], rel=1e-4)


def test_what_the_model_and_its_card_say(calibrated):
    here, done = calibrated
    known = json.loads((done.out / "config.json").read_text())["provenance"]
    assert known["temperature"] == done.temperatures[""] and known["calibrated_on"] == "12 videos of val.csv"
    (Path(here) / "evaluation").mkdir(exist_ok=True)
    (Path(here) / "evaluation" / "metrics.json").write_text(
        json.dumps({"num_evaluated": 1, "num_expected": 1, "uar": 0.5, "manifest": "m.csv"})
    )
    for card in ((done.out / "README.md").read_text(), card_of(done.out)):
        assert f"Calibrated by the temperature: {done.temperatures['']:.3g}" in card
        assert "The temperature was fitted on: 12 videos of val.csv" in card
        assert "No evaluation is beside the model" in card  # that of the run is of other weights
    assert "UAR" in card_of(Path(here)) and "temperature" not in card_of(Path(here))


def test_the_table_has_before_after_and_after_with_the_temperature_of_others(calibrated, data, tmp_path):
    here, done = calibrated
    table = pd.read_csv(done.out / "calibration.csv")
    assert table["model"].tolist() == ["before", "after", "after, others"]
    before = probabilities(here, data, tmp_path)
    labels = [NAMES.index(label) for label in pd.read_csv(data / "val.csv")["label"]]
    temperature = done.temperatures[""]
    for row, expected in ((0, before), (1, softmax(np.log(before) / temperature, axis=1))):
        assert table["NLL"][row] == pytest.approx(log_likelihood_loss(labels, np.log(expected)), abs=6e-5)
        assert table["confidence, %"][row] == pytest.approx(100 * expected.max(axis=1).mean(), abs=0.06)
    assert table["NLL"][1] < min(table["NLL"][0], table["NLL"][2])
    assert table["accuracy, %"].nunique() == 1
    first, second = map(float, table["T"][2].split(", "))
    assert first != second and min(first, second) < temperature < max(first, second)


def test_each_head_with_classes_has_its_temperature_and_others_stay(data, tmp_path):
    heads = [
        Head("values", "regression", ("valence",)),
        Head("feeling", "classification", NAMES),
        Head("mood", "classification", ("bad", "good"), label_column="mood"),
    ]
    model, classes = base("multitask", num_outputs=6, heads=heads), svfap.load_model(data / "model").head
    with torch.no_grad():
        for values, of_class in ((model.head.weight, classes.weight), (model.head.bias, classes.bias)):
            values[1:] = torch.stack([*of_class, of_class[:2].mean(dim=0), of_class[2]])
    here = run(tmp_path / "run", data, model)
    done = calibrate(here, replace(CONFIG, manifest=data / "val.csv"))
    assert set(done.temperatures) == {"feeling", "mood"}
    assert done.table["head"].tolist() == ["feeling"] * 3 + ["mood"] * 3
    before, after = svfap.load_model(here), svfap.load_model(done.out)
    by_row = [1.0] + [done.temperatures["feeling"]] * 3 + [done.temperatures["mood"]] * 2
    divisor = torch.tensor(by_row)
    torch.testing.assert_close(after.head.weight, before.head.weight / divisor[:, None])
    torch.testing.assert_close(after.head.bias, before.head.bias / divisor)
    assert after.config.provenance["calibrated_on"]["mood"] == "12 videos of val.csv"
    assert "feeling: " in (done.out / "README.md").read_text().split("Calibrated by the temperature: ")[1][:20]


def test_of_a_frame_level_model_frames_are_calibrated(data, tmp_path):
    rng = np.random.default_rng(1)
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", list(rng.integers(0, 255, (20, 32, 32, 3), np.uint8)), 25)
        pd.DataFrame({"label": rng.choice(NAMES, 20)}).to_csv(tmp_path / f"{number}.csv", index=False)
    rows = pd.DataFrame({"path": [f"{n}.mp4" for n in range(3)], "frame_values": [f"{n}.csv" for n in range(3)]})
    rows.to_csv(tmp_path / "m.csv", index=False)
    base(label_names=NAMES, frame_level=True, sampling_stride=1).save_pretrained(tmp_path / "model")
    done = calibrate(str(tmp_path / "model"), replace(CONFIG, manifest=tmp_path / "m.csv"))
    one = EvaluateConfig(
        model=str(tmp_path / "model"), manifest=tmp_path / "m.csv", num_segments=1, num_crops=1, precision="fp32"
    )
    frames = pd.read_csv(evaluate(one).out / "frames.csv")
    logits = np.log(frames[[f"prob_{name}" for name in NAMES]].to_numpy())
    labels = [NAMES.index(label) for label in frames["label"]]
    assert len(frames) > 20 and done.temperatures[""] == pytest.approx(fit_temperature(labels, logits))


# The videos -----------------------------------------------------------------------------------------------------------


def fitted_on(done: Any) -> str:
    return svfap.load_model(done.out).config.provenance["calibrated_on"]


def test_the_videos_that_training_set_aside_are_found_again(data, tmp_path, capsys):
    here = run(
        tmp_path / "run",
        data,
        manifest=str(data / "all.csv"),
        split="train",
        val_fraction=0.25,
        seed=3,
        task="classification",
    )
    validation = carve_validation(read_manifest(data / "all.csv", split="train"), 0.25, 3)[1]
    one = calibrate(here, CONFIG)
    assert fitted_on(one) == f"{len(validation)} videos of all.csv, those that training had set aside"
    capsys.readouterr()
    chosen = [sample.key for sample in validation]
    rows = pd.read_csv(data / "all.csv").set_index("path").loc[chosen].reset_index()
    rows.to_csv(data / "chosen.csv", index=False)
    other = calibrate(here, replace(CONFIG, manifest=data / "chosen.csv", out=tmp_path / "other"))
    assert other.temperatures == pytest.approx(one.temperatures)
    assert "is fitted on 6 videos; of fewer than 20 it is mostly chance" in capsys.readouterr().err.replace("\n", " ")


def test_of_a_run_with_a_validation_split_its_rows_are_taken(data, tmp_path):
    rows = pd.read_csv(data / "all.csv")
    rows.assign(split=["train"] * 15 + ["dev"] * 9 + ["test"] * 6).to_csv(data / "dev.csv", index=False)
    here = run(tmp_path / "run", data, manifest=str(data / "dev.csv"), split="train", val_split="dev", root=str(data))
    assert fitted_on(calibrate(here, CONFIG)) == "9 videos of dev.csv, split dev"


def test_videos_of_the_training_are_warned_of_and_those_of_the_test_part_refused(data, tmp_path, capsys):
    split = run(tmp_path / "split", data, manifest=str(data / "all.csv"), split="train", root=None)
    calibrate(split, replace(CONFIG, manifest=data / "val.csv"))
    assert "was trained on 12 of the 12 test videos" in capsys.readouterr().err.replace("\n", " ")
    fold = run(tmp_path / "fold", data, dataset=str(data), fold="a", manifest=str(data / "train.csv"), root=str(data))
    for here in (split, fold):
        config = replace(CONFIG, manifest=data / "test.csv", out=tmp_path / "out")
        with pytest.raises(UserError, match=r"6 of the 6 videos of .*test.csv are of the test part of"):
            calibrate(here, config)
    assert not (tmp_path / "out").exists()


def test_what_is_refused(data, tmp_path):
    here = run(tmp_path / "run", data, manifest=str(data / "all.csv"), split="train", val_fraction=0.0)
    values = run(tmp_path / "values", data, base("regression", num_outputs=1, label_names=("valence",)))
    several = run(
        tmp_path / "several", data, manifest=[str(data / "train.csv"), str(data / "val.csv")], val_fraction=0.2
    )
    gone = run(tmp_path / "gone", data, manifest="gone.csv", val_fraction=0.2)
    of_one = pd.read_csv(data / "val.csv").query("label == 'joy'")
    of_one.to_csv(data / "one.csv", index=False)
    refused = [
        (values, {"manifest": data / "val.csv"}, "is a regression model without classes"),
        (here, {}, "the run had no validation videos; give labelled videos as `manifest`"),
        (several, {}, "the run was validated on several, .*say which with `manifest`"),
        (gone, {}, "the manifest of its validation part, gone.csv, is gone"),
        (f"{here}/best", {"manifest": data / "one.csv"}, "one.csv: all labels are joy; a temperature needs"),
        (here, {"dataset": data, "fold": "b"}, "fold b has no validation part; give `manifest`"),
        (here, {"manifest": data / "val.csv", "out": tmp_path / "run"}, "exists already"),
    ]
    for model, settings, why in refused:
        with pytest.raises(UserError, match=why):
            calibrate(model, replace(CONFIG, **settings))
    Path(here, "config.yaml").unlink()
    with pytest.raises(UserError, match="is not the folder of a run, whose own validation videos would be known"):
        calibrate(here, CONFIG)
    for wrong, why in (
        ({"manifest": data / "val.csv", "dataset": data}, "give either"),
        ({"fold": "a"}, "only a dataset has folds"),
        ({"split": "val"}, "chooses rows of a manifest"),
    ):
        with pytest.raises(UserError, match=why):
            CalibrateConfig(**wrong)
    with pytest.raises(UserError, match="out: give a folder for the calibrated model"):
        CONFIG.out_folder("movement")


def test_the_command_shows_the_table_and_says_where_the_model_is(data, tmp_path, capsys):
    here = run(tmp_path / "run", data, manifest=str(data / "train.csv"), val_manifest=str(data / "val.csv"))
    assert main(["calibrate", here, "--out", str(tmp_path / "model"), "--precision", "fp32"]) == 0
    printed = capsys.readouterr()
    assert "after" in printed.out and "NLL" in printed.out
    assert f"written: {tmp_path / 'model'}" in printed.err.replace("\n", "")
    assert main(["calibrate", here, "--out", str(tmp_path / "model")]) == 1
    assert "exists already; remove it, or choose another folder with --out" in capsys.readouterr().err
