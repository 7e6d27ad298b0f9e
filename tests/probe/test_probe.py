"""`svfap probe` on videos whose labels are known to be in the pixels."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lit_people import save_encoder, write_people

from svfap.cli.main import main
from svfap.data.clip_dataset import ClipDataset
from svfap.data.prepared import read_dataset, write_dataset_file
from svfap.errors import UserError
from svfap.evaluation.confidence import interval
from svfap.probe import probe as probe_module
from svfap.probe.config import ProbeConfig
from svfap.probe.parts import read_parts
from svfap.probe.probe import probe_model
from svfap.probe.reading import read_chance
from svfap.probe.table import Row, _about_attentive
from svfap.probe.tokens import encoder_digest
from svfap.reports.config import ReportConfig
from svfap.reports.report import report
from svfap.weights.config import ConvertConfig
from svfap.weights.convert import convert
from svfap.weights.folder import load_model

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("models") / "run")


def config(**settings):
    return ProbeConfig(**{"precision": "fp32", "num_resamples": 200, "features": "last", **settings})


@pytest.fixture(scope="module")
def values(folder, model):
    """Values of clips of the dataset, all readers."""
    kinds = ["attentive", "knn", "linear"]
    settings = {"attentive_epochs": 2, "attentive_rates": [1e-9, 1e-2], "attentive_decays": [0.0], "num_seeds": 2}
    return probe_model(
        model,
        config(
            dataset=folder / "dataset_values", kind=kinds, features=["last", "fused", "tokens", "stages"], **settings
        ),
    )


def score(done, row, key):
    found = done.table[(done.table[["reader", "features", "encoder"]] == list(row)).all(axis=1)]
    return found.set_index("score").loc[key]


def test_rows_are_every_reader_on_every_encoder_beside_pixels_and_chance(values):
    rows = list(dict.fromkeys(values.table[["reader", "features", "encoder"]].itertuples(index=False, name=None)))
    stages = ["stage_1", "stage_2", "stage_3"]
    pairs = [*(("linear", name) for name in ("last", "fused", "tokens", *stages)), ("attentive", "tokens")]
    pairs += [("knn", name) for name in ("last", "fused", *stages)]
    wanted = [(*pair, which) for pair in pairs for which in ("trained", "untrained")]
    assert rows == [*wanted, ("linear", "pixels", "pixels"), ("chance", "", "chance")]
    assert set(values.table["score"]) == {
        f"{key}{end}" for key in ("ccc", "pcc", "ccc_within_people") for end in ("", "_valence", "_arousal")
    }


def test_values_that_are_in_the_pixels_are_found_and_noise_is_not(values):
    pixels = ("linear", "pixels", "pixels")
    assert score(values, pixels, "ccc_valence").value > 0.95
    assert score(values, pixels, "ccc_within_people_valence").value > 0.9
    assert abs(score(values, pixels, "ccc_arousal").value) < 0.4
    assert score(values, ("linear", "last", "trained"), "ccc_valence").value > 0.8
    assert score(values, ("chance", "", "chance"), "ccc").value == 0


def test_each_row_has_its_interval_and_its_paired_difference(values):
    for name in ("last", "tokens"):
        trained, untrained = (score(values, ("linear", name, which), "ccc") for which in ("trained", "untrained"))
        assert trained.low < trained.value < trained.high
        assert trained.difference == pytest.approx(trained.value - untrained.value)
        assert trained.difference_low <= trained.difference <= trained.difference_high
        assert math.isnan(untrained.difference)
        one, other = (values.scores[Row("linear", name, which)]["ccc"] for which in ("trained", "untrained"))
        found = interval(one, other, num_resamples=200)
        assert (trained.difference, trained.difference_low, trained.difference_high) == pytest.approx(tuple(found))
    assert len(values.scores[Row("linear", "last", "trained")]["ccc"].sums) == 5  # people of the test part


def test_files(values, model, folder, tmp_path):
    out = model / "probe"
    assert values.out == out
    names = {"probe.md", "probe.csv", "probe.tex", "probe.json", "probe.png", "unreadable.csv", "features"}
    assert {path.name for path in out.iterdir()} == names
    text = (out / "probe.md").read_text()
    assert (
        "44 videos of 11 people, scored on 20 videos of 5 people" in text
        and "200 bootstrap samples of the 5 people" in text
    )
    assert "Warning: intervals from so few are not to be trusted; at least 10 people" in text
    assert "linear, last stage, untrained" in text and "CCC within people − untrained" in text
    content = json.loads((out / "probe.json").read_text())
    assert len(content["scores"]) == len(values.table) and content["num_evaluated"] == 64
    assert content["attentive"] == {which: [{"rate": 0.01, "decay": 0.0}] for which in ("trained", "untrained")}
    assert (
        "trained for 2 epochs (fewer than 20, so scores may be too low); learning rate / weight decay chosen from 1e-09, 0.01 / "
        "0: trained 0.01 / 0; untrained 0.01 / 0." in text
    )
    (run,) = report(model, ReportConfig(out=tmp_path / "report.html", maps=False))
    page = (tmp_path / "report.html").read_text()
    assert run.probe and "Probes of the frozen features" in page and "attentive, all tokens" in page
    (out / "probe.json").write_text('{"caption": "x"}')
    with pytest.raises(UserError, match=r"probe\.json is not what"):
        report(model, ReportConfig(out=tmp_path / "report.html", maps=False))
    (out / "probe.json").write_text(json.dumps(content))


def test_another_reader_decodes_nothing_again(values, folder, model, monkeypatch):
    def refuse(self, index):
        raise AssertionError("decoded again")

    monkeypatch.setattr(ClipDataset, "__getitem__", refuse)
    settings = dict(kind="linear, knn", features=["last", "fused"], num_resamples=300)
    done = probe_model(model, config(dataset=folder / "dataset_values", **settings))
    for row in (("linear", "last", "trained"), ("knn", "fused", "untrained")):
        assert score(done, row, "ccc").value == score(values, row, "ccc").value


def test_a_probe_of_another_question_says_what_it_replaces(folder, model, tmp_path, capsys):
    settings = {"kind": "linear", "out": tmp_path, "num_segments": 1, "num_crops": 1}
    first = config(dataset=folder / "dataset_values", **settings)
    probe_model(model, first)
    probe_model(model, replace(first, batch_size=3))
    assert "replaced" not in capsys.readouterr().err  # the same question
    probe_model(model, config(dataset=folder / "dataset_labels", **settings))
    said = f"{tmp_path / 'probe.json'}: the probe there, of Lit people (valence, arousal) by linear, will be replaced by this one"
    assert said in capsys.readouterr().err
    shutil.copytree(model, tmp_path / "other", ignore=shutil.ignore_patterns("probe"))
    encoder = load_model(model)
    with torch.no_grad():
        next(encoder.encoder.parameters()).add_(1.0)
    encoder.save_pretrained(tmp_path / "other")
    probe_model(tmp_path / "other", config(dataset=folder / "dataset_labels", **settings))
    assert "by linear, with other weights, will be replaced" in capsys.readouterr().err
    (tmp_path / "probe.json").write_text("{")
    probe_model(model, first)
    assert "the probe there, that cannot be read, will be replaced" in capsys.readouterr().err


def test_what_is_no_model_is_said_before_all_else(folder, tmp_path, capsys):
    (tmp_path / "face.mp4").write_bytes(b"no checkpoint")
    assert main(["probe", str(tmp_path / "face.mp4"), "--dataset", str(folder / "dataset_labels")]) == 1
    assert "face.mp4: not a checkpoint" in capsys.readouterr().err


def test_a_damaged_cache_changes_no_row(folder, model, tmp_path):
    settings = config(
        dataset=folder / "dataset_labels", kind="linear", out=tmp_path / "out", num_segments=1, num_crops=1
    )
    whole = probe_model(model, settings)
    assert score(whole, ("linear", "last", "trained"), "uar").value > 0.5
    (cache,) = (tmp_path / "out" / "features").glob(f"*-{encoder_digest(load_model(model).encoder)}-*")
    for name in ("last.bin", "views.npz"):
        (cache / name).write_bytes(bytes((cache / name).stat().st_size))  # as after a power failure
        pd.testing.assert_frame_equal(probe_model(model, settings).table, whole.table)


def test_the_caption_says_how_attentive_readers_were_trained(folder):
    settings = config(dataset=folder / "dataset_values", kind="attentive", num_seeds=2)
    chosen = {"trained": [(0.01, 1.0), (0.003, 0.1), (0.01, 1.0)], "untrained": [(0.01, 0.1)] * 3}
    assert _about_attentive(settings, chosen) == (
        "Attentive: means of 2 readers, trained for at least 20 epochs and 2,500 steps; learning rate / weight decay chosen from "
        "0.001, 0.003, 0.01 / 0.1, 1: trained 0.01 / 1 in 2 folds, 0.003 / 0.1 in 1 fold; untrained 0.01 / 0.1 in 3 folds."
    )
    one = replace(settings, num_seeds=1, attentive_epochs=1, attentive_rates=[1.0], attentive_decays=[0.0])
    assert _about_attentive(one, {"trained": [(1.0, 0.0)]}) == (
        "Attentive: trained for 1 epoch (fewer than 20, so scores may be too low); learning rate / weight decay 1 / 0."
    )


def test_chance_has_all_classes_where_what_fits_lacks_the_last():
    found = read_chance(None, np.array([0, 2, 2]), None, np.zeros((4, 1)), num_classes=5)
    np.testing.assert_array_equal(found, np.eye(5)[[2, 2, 2, 2]])


def test_classes_of_a_manifest_are_cross_validated_over_people(folder, model, tmp_path, monkeypatch):
    seen = []
    real = probe_module.knn_probe
    monkeypatch.setattr(probe_module, "knn_probe", lambda *a, **k: seen.append((set(a[2]), len(a[3]))) or real(*a, **k))
    done = probe_model(model, config(manifest=folder / "all.csv", num_folds=4, kind="knn", out=tmp_path / "out"))
    assert "4-fold cross-validation over 64 videos of 16 people" in done.caption and "Warning" not in done.caption
    assert len(seen) == 8 and sum(number for _, number in seen) % 64 == 0
    assert all(len(people) == 12 for people, _ in seen)
    assert score(done, ("chance", "", "chance"), "uar").value == 0.5
    assert score(done, ("linear", "pixels", "pixels"), "uar").value > 0.9
    assert len(done.scores[Row("knn", "last", "trained")]["uar"].sums) == 16


def test_values_of_frames_are_read_at_every_time_step(folder, model, tmp_path):
    done = probe_model(
        model, config(dataset=folder / "dataset_frames", dimensions=["valence"], kind="linear", out=tmp_path / "out")
    )
    assert score(done, ("linear", "pixels", "pixels"), "ccc").value > 0.9
    # One view of 16 frames at each end of 24, which overlap: every frame once.
    assert done.scores[Row("linear", "last", "trained")]["ccc"].sums[:, 0, 0, 0].tolist() == [24 * 4] * 5
    assert "at every frame" in done.caption


def test_frames_of_a_person_that_are_not_annotated_are_left_out(folder, model, tmp_path):
    shutil.copytree(folder, tmp_path / "people")
    for clip in range(4):
        file = tmp_path / "people" / "frames" / f"p11_{clip}.csv"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines[:10], *(["-5,-5"] * 15)]) + "\n")
    settings = dict(dataset=tmp_path / "people" / "dataset_frames", kind="linear", invalid_marks=[-5.0])
    done = probe_model(model, config(**settings, out=tmp_path / "out"))
    numbers = done.scores[Row("linear", "last", "trained")]["ccc"].sums[:, 0, 0, 0].tolist()
    assert sorted(numbers) == [9 * 4, *[24 * 4] * 4]


def test_frames_without_any_annotation_are_an_error(folder, model, tmp_path):
    pd.read_csv(folder / "all.csv")[["path", "subject", "frame_values"]].to_csv(folder / "files.csv", index=False)
    settings = dict(manifest=folder / "files.csv", dimensions=["valence"], frame_level=True, kind="linear")
    settings |= dict(label_range=(50.0, 60.0), out=tmp_path / "out")
    with pytest.raises(UserError, match="is annotated"):
        probe_model(model, config(**settings))


def test_a_manifest_without_subjects_is_refused_unless_asked_otherwise(folder, model, tmp_path):
    table = pd.read_csv(folder / "m.csv").drop(columns=["subject", "split"])
    table.to_csv(folder / "nobody.csv", index=False)
    with pytest.raises(UserError, match="no subject for all rows.*--by_video"):
        read_parts(config(manifest=folder / "nobody.csv"))
    settings = dict(
        manifest=folder / "nobody.csv", by_video=True, kind="knn", num_segments=1, num_crops=1, out=tmp_path
    )
    done = probe_model(model, config(**settings))
    assert "people are not known" in done.caption and "bootstrap samples of the 64 files" in done.caption
    done = probe_model(model, config(**settings, dimensions=["valence"]))
    assert "ccc_within_people" not in set(done.table["score"])


def test_people_in_both_parts_are_refused(folder):
    rows = pd.read_csv(folder / "test.csv")
    rows.loc[3, "subject"] = "s2"
    rows.to_csv(folder / "shared.csv", index=False)
    with pytest.raises(UserError, match=r"subject s2 is in both the part that fits .* \(1 such\)"):
        read_parts(config(manifest=folder / "train.csv", test_manifest=folder / "shared.csv"))
    with pytest.raises(UserError, match="in both"):
        read_parts(config(manifest=folder / "train.csv", test_manifest=folder / "train.csv"))


def altered(folder, name, change, source="test.csv"):
    """A manifest like another one, with a change to its table."""
    change(pd.read_csv(folder / source)).to_csv(folder / name, index=False)
    return folder / name


def test_a_file_in_both_parts_is_refused_whoever_is_said_to_be_in_it(folder):
    test = altered(folder, "again.csv", lambda t: t.assign(path=["p0_1.mp4", *t["path"][1:]]))
    with pytest.raises(UserError, match=r"p0_1\.mp4 is in both the part that fits .* \(1 such\)"):
        read_parts(config(manifest=folder / "train.csv", test_manifest=test))
    cut = altered(folder, "first.csv", lambda t: t.assign(start_s=0.0, end_s=0.2), source="train.csv")
    other = altered(folder, "second.csv", lambda t: t.assign(start_s=0.2, end_s=0.4), source="again.csv")
    assert len(
        read_parts(config(manifest=cut, test_manifest=other)).manifest
    )  # pieces of a film, with people of their own
    with pytest.raises(UserError, match=r"p0_1\.mp4 is in both"):
        read_parts(config(manifest=folder / "train.csv", test_manifest=other))


def test_a_subject_that_some_rows_lack_is_refused(folder):
    test = altered(folder, "gap.csv", lambda t: t.assign(subject=[None, *t["subject"][1:]]))
    message = r"gap\.csv: row of p11_0\.mp4, column 'subject': is empty, and other rows have one"
    with pytest.raises(UserError, match=message):
        read_parts(config(manifest=folder / "train.csv", test_manifest=test))
    with pytest.raises(UserError, match=message):
        read_parts(config(manifest=test))
    read_parts(config(manifest=test, by_video=True))
    nobody = altered(folder, "no_test_people.csv", lambda t: t.drop(columns="subject"))
    parts = read_parts(config(manifest=folder / "train.csv", test_manifest=nobody))
    assert not parts.known and [parts.units(rows) for rows in parts.splits[0]] == ["subjects", "files"]


@pytest.mark.parametrize(("part", "what"), [("train", "fits the readers"), ("test", "is scored")])
def test_a_part_of_one_class_is_refused(part, what, folder):
    # Numbers: the classes of a part are known without a video of each.
    numbered = {
        name: altered(
            folder,
            f"numbered_{name}.csv",
            lambda t, name=name: t.assign(label=(t["label"] == "high").astype(int)).query(
                "label == 1" if name == part else "label >= 0"
            ),
            f"{name}.csv",
        )
        for name in ("train", "test")
    }
    with pytest.raises(
        UserError,
        match=f"numbered_train.csv and numbered_test.csv: all videos of the part that {what} are of class '1'; at least 2",
    ):
        read_parts(config(manifest=numbered["train"], test_manifest=numbered["test"]))


def test_few_people(folder):
    one = altered(folder, "one.csv", lambda t: t[t["subject"] == "s0"], "train.csv")
    with pytest.raises(UserError, match=r"one\.csv, column 'subject': videos of at least 3 people .* not of 1"):
        read_parts(config(manifest=one, dimensions=["valence"]))
    two = altered(folder, "two.csv", lambda t: t[t["subject"].isin(["s0", "s1"])], "train.csv")
    with pytest.raises(UserError, match=r"two\.csv, column 'subject': videos of at least 3 people .* not of 2"):
        read_parts(config(manifest=two, dimensions=["valence"]))
    with pytest.raises(UserError, match=r"one\.csv, column 'subject': videos of at least 2 people .* not of 1"):
        read_parts(config(manifest=one, test_manifest=folder / "test.csv", dimensions=["valence"]))


def test_a_dimension_that_is_no_column_is_named_though_there_are_values_of_frames(folder):
    for names in (["nonsense"], ["nonsense", "valence"]):
        with pytest.raises(
            UserError, match=r"train\.csv: no column 'nonsense' for that dimension; there are path, .*valence"
        ):
            read_parts(config(manifest=folder / "train.csv", test_manifest=folder / "test.csv", dimensions=names))


def test_a_class_that_does_not_occur_in_training_says_where_the_classes_are_from(folder):
    test = altered(folder, "angry.csv", lambda t: t.assign(label=["angry", *t["label"][1:]]))
    message = r"angry\.csv: row 2, column 'label': 'angry' is not a known label; .* fits the readers, .*train\.csv"
    with pytest.raises(UserError, match=message):
        read_parts(config(manifest=folder / "train.csv", test_manifest=test))


def test_the_values_of_frames_that_are_read_are_those_of_the_files(folder):
    """Other columns of numbers, such as traits of the person, have no values per frame."""
    parts = {
        name: altered(folder, f"traits_{name}.csv", lambda t: t.assign(openness=0.5), f"{name}.csv")
        for name in ("train", "test")
    }
    settings = {"manifest": parts["train"], "test_manifest": parts["test"], "frame_level": True}
    assert read_parts(config(**settings)).names == ("valence", "arousal")
    message = r"traits_train\.csv: .* p0_0\.csv, have no column 'openness'; there are valence, arousal; .*`dimensions`"
    with pytest.raises(UserError, match=message):
        read_parts(config(**settings, dimensions=["valence", "openness"]))


def test_parts_of_a_split_column_and_of_other_folders(folder, tmp_path):
    parts = read_parts(config(manifest=folder / "m.csv", split="train", test_split="test"))
    ((fit, test),) = parts.splits
    assert (len(fit), len(test)) == (32, 20) and not set(parts.people[fit]) & set(parts.people[test])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "p11_0.mp4").symlink_to(folder / "p11_0.mp4")
    shutil.copy(folder / "test.csv", tmp_path / "there" / "test.csv")
    moved = read_parts(config(manifest=folder / "train.csv", test_manifest=tmp_path / "there" / "test.csv"))
    assert moved.manifest[32].path == (tmp_path / "there" / "p11_0.mp4") and moved.manifest[0].path.is_file()


def test_unreadable_videos_are_counted_and_listed(folder, model, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "people")
    (tmp_path / "people" / "p0_1.mp4").write_bytes(b"nothing")
    (tmp_path / "people" / "p12_0.mp4").unlink()
    out = tmp_path / "out"
    arguments = ["--dataset", str(tmp_path / "people" / "dataset_labels"), "--kind", "knn", "--features", "last"]
    assert main(["probe", str(model), *arguments, "--precision", "fp32", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert "2 of 64 videos could not be read" in printed.err and "knn, last stage" in printed.out
    assert pd.read_csv(out / "unreadable.csv")["path"].tolist() == ["p0_1.mp4", "p12_0.mp4"]
    assert "43 videos of 11 people, scored on 19 videos of 5 people" in (out / "probe.md").read_text().replace(
        "\n", " "
    )


def test_a_test_part_of_one_person_draws_videos(folder, model, tmp_path):
    table = pd.read_csv(folder / "test.csv")
    table[table["subject"] == "s11"].to_csv(folder / "alone.csv", index=False)
    parts = {"manifest": folder / "train.csv", "test_manifest": folder / "alone.csv"}
    done = probe_model(model, config(**parts, dimensions=["valence"], kind="knn", out=tmp_path / "out"))
    assert "200 bootstrap samples of the 4 videos of the only person" in done.caption


@pytest.mark.parametrize("task", ["classification", "features"])
def test_any_model_can_be_probed(task, folder, values, tmp_path):
    settings = {"label_names": ("a", "b")} if task == "classification" else {}
    model = save_encoder(tmp_path / task, task, **settings)
    done = probe_model(model, config(dataset=folder / "dataset_values", kind="linear"))
    assert "ccc" in set(done.table["score"])


def test_an_encoder_that_is_the_untrained_one_differs_from_it_by_nothing(folder, tmp_path):
    model = save_encoder(tmp_path / "start", seed=0)
    done = probe_model(model, config(dataset=folder / "dataset_values", kind="linear"))
    row = score(done, ("linear", "last", "trained"), "ccc")
    assert (row.difference, row.difference_low, row.difference_high) == (0, 0, 0)


def test_a_published_checkpoint_and_a_loaded_model(folder, model, tmp_path):
    loaded = load_model(model)
    weights = [parameter.clone() for parameter in loaded.parameters()]
    done = probe_model(loaded, config(dataset=folder / "dataset_labels", kind="knn", out=tmp_path / "a"))
    assert all((a == b).all() for a, b in zip(weights, loaded.parameters(), strict=True))
    with pytest.raises(UserError, match="give `out`"):
        probe_model(loaded, config(dataset=folder / "dataset_labels", kind="knn"))
    assert np.isfinite(done.table["value"]).all()
    convert(str(model), tmp_path / "published.pth", ConvertConfig())
    settings = config(dataset=folder / "dataset_labels", kind="knn", out=tmp_path / "b")
    assert probe_model(tmp_path / "published.pth", settings).table.equals(done.table)


def test_datasets_that_cannot_be_probed(folder, tmp_path):
    from dataclasses import replace

    described = read_dataset(folder / "dataset_labels")
    write_dataset_file(tmp_path, replace(described, folds=(replace(described.folds[0], test=None),)))
    with pytest.raises(UserError, match="fold 1 has no test part"):
        read_parts(config(dataset=tmp_path))
    with pytest.raises(UserError, match="dimensions: is for regression, and Lit people for classification"):
        read_parts(config(dataset=folder / "dataset_labels", dimensions=["valence"]))
    with pytest.raises(UserError, match="has no 'joy'; it has valence, arousal"):
        read_parts(config(dataset=folder / "dataset_values", dimensions=["joy"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either `dataset`"),
        ({"dataset": "d", "manifest": "m"}, "give either `dataset`"),
        ({"dataset": "d", "fold": "all"}, "one fold is probed at a time"),
        ({"dataset": "d", "test_split": "test"}, "goes with `manifest`"),
        ({"manifest": "m", "test_split": "test"}, "give `split` too"),
        ({"manifest": "m", "fold": "1"}, "only a dataset has folds"),
        ({"manifest": "none"}, "no such file"),
        ({"dataset": "d", "kind": "forest"}, "'forest' is none of linear, attentive, knn"),
        ({"dataset": "d", "features": ["last", "first"]}, "'first' is none of"),
        ({"dataset": "d", "kind": "knn", "features": "tokens"}, "knn reads last"),
        ({"dataset": "d", "num_folds": 1}, "num_folds=1"),
        ({"dataset": "d", "task": "classification", "frame_level": True}, "frame_level: is for regression"),
        ({"dataset": "d", "attentive_rates": []}, "attentive_rates"),
        ({"dataset": "d", "attentive_rates": [math.nan]}, "attentive_rates=.*finite"),
        ({"dataset": "d", "attentive_decays": [math.inf]}, "attentive_decays=.*finite"),
        ({"dataset": "d", "invalid_marks": [math.nan]}, "invalid_marks=.*NaN"),
        ({"dataset": "d", "dimensions": []}, "dimensions: is an empty list"),
        ({"dataset": "d", "by_video": True}, "by_video=True: goes with `manifest`"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(UserError, match=message):
        ProbeConfig(**settings)
