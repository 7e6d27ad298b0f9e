"""Several heads: labels that rows may lack, losses with masks, weights, and equality with one head alone."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import PLAIN, finetuning, log
from torch.testing import assert_close

from svfap.cli.main import main
from svfap.data.heads import read_heads
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.predictions import read_predictions
from svfap.reports.runs import read_run
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.loop import TrainingRun
from svfap.weighted import weighted_paths
from svfap.weights.folder import load_model

pytestmark = pytest.mark.usefixtures("blank_figures")

SMALL = dict(PLAIN, model={"img_size": 32, "num_frames": 8})
HEADS = {
    "affect": {"task": "regression", "dimensions": ["valence", "arousal"], "weight": 0.5},
    "course": {"task": "regression", "dimensions": ["valence", "dominance"], "frame_level": True},
    "expression": {"task": "classification", "smoothing": 0.1},
}


def rewritten(faces: Path, out: Path, change) -> Path:
    """The training manifest with absolute paths, after `change(number, row)`; a row for which it returns False is left out."""
    rows = list(csv.DictReader((faces / "train.csv").open()))
    kept = []
    for number, row in enumerate(rows):
        row |= {name: str(faces / row[name]) for name in ("path", "frame_values")}
        if change(number, row) is not False:
            kept.append(row)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in kept for name in row)), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
    return out


@pytest.fixture(scope="module")
def partial(faces, tmp_path_factory) -> Path:
    """Every third row lacks the class, every fourth the dimensions, every fifth the file of frames."""

    def change(number, row):
        row["label"] = "" if (number + 1) % 3 == 0 else row["label"]
        for name in ("valence", "arousal"):
            row[name] = "" if (number + 1) % 4 == 0 else row[name]
        row["frame_values"] = "" if (number + 1) % 5 == 0 else row["frame_values"]

    return rewritten(faces, tmp_path_factory.mktemp("partial") / "partial.csv", change)


def outputs_of(task: FinetuneTask, size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = task.model.config.num_frames
    return {
        head.name: torch.randn(
            size, *([frames] if head.config.frame_level else []), len(head.names), generator=generator
        ).requires_grad_()
        for head in task.heads
    }


def test_each_loss_is_the_mean_over_what_has_a_label(faces, partial, tmp_path):
    config = finetuning(faces, tmp_path / "run", **{**SMALL, "manifest": partial, "heads": HEADS})
    task = FinetuneTask(config)
    batch = task.dataset.collate([task.dataset[row] for row in range(9)])
    outputs = outputs_of(task, 9)
    affect, course, expression = task.losses(lambda clips: outputs, batch, torch.Generator().manual_seed(0))
    values, frames, labels = (batch[f"head {name}"] for name in HEADS)
    named, valued, filmed = ([n for n in range(9) if (n + 1) % each] for each in (3, 4, 5))
    assert [len(named), len(valued), len(filmed)] == [6, 7, 8]
    assert_close(affect, 0.5 * (outputs["affect"][valued] - values[valued]).square().mean())
    assert_close(course, (outputs["course"][filmed] - frames[filmed]).square().mean())
    by_hand = F.cross_entropy(outputs["expression"][named], labels[named], label_smoothing=0.1)
    assert_close(expression, by_hand)
    assert task.counts(batch) == [7, 8 * 8, 6]
    (found,) = torch.autograd.grad(expression, outputs["expression"])
    assert (found.abs().sum(-1) > 0).tolist() == [n in named for n in range(9)]


def test_a_mixed_clip_has_a_label_where_both_have_one(faces, partial, tmp_path):
    settings = {**SMALL, "mixup": 0.8, "manifest": partial, "heads": HEADS}
    task = FinetuneTask(finetuning(faces, tmp_path / "run", **settings))
    batch = task.dataset.collate([task.dataset[row] for row in range(8)])
    outputs = outputs_of(task, 8)
    losses = task.losses(lambda clips: outputs, batch, torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(losses[2], outputs["expression"])
    assert (found.abs().sum(-1) > 0).tolist() == [(n + 1) % 3 > 0 and (8 - n) % 3 > 0 for n in range(8)]


@pytest.mark.parametrize("sizes", [(4, 4, 1), (1, 8)])
def test_micro_batches_are_one_batch_for_every_head(faces, partial, tmp_path, sizes):
    """With micro-batches that have other numbers of labels of each."""
    settings = {
        **SMALL,
        "manifest": partial,
        "heads": HEADS,
        "batch_size": 9 * len(sizes),
        "accumulate_steps": len(sizes),
    }
    config = finetuning(faces, tmp_path / "run", **settings)
    run = TrainingRun(FinetuneTask(config), config)
    run.task.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))

    def gradient(rows: list[range]) -> tuple[float, torch.Tensor]:
        run.optimizer.zero_grad()
        data = run.task.dataset
        loss = run._accumulate([data.collate([data[row] for row in part]) for part in rows])[0].sum().item()
        return loss, torch.cat([p.grad.flatten() for p in run.task.model.parameters()])

    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    loss, split = gradient([range(a, b) for a, b in pairwise(ends)])
    whole_loss, whole = gradient([range(9)])
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert_close(split, whole, rtol=1e-4, atol=1e-6 * whole.abs().max().item())
    run.loader.close()


def test_a_head_of_weight_zero_changes_nothing_for_the_other(faces, tmp_path):
    heads = {"affect": {**HEADS["affect"], "weight": 0}, "expression": {"task": "classification"}}
    settings = {**SMALL, "base_lr": 0.05, "epochs": 2}
    both = FinetuneTask(finetuning(faces, tmp_path / "both", **settings, heads=heads, best_by="expression"))
    one = FinetuneTask(finetuning(faces, tmp_path / "one", **settings))
    one.model.load_state_dict(both.model.of_head("expression").state_dict())
    for task in (both, one):
        run = TrainingRun(task, task.config)
        run.train()
    losses, alone = ([line["loss"] for line in log(tmp_path / name)] for name in ("both", "one"))
    assert losses == pytest.approx(alone, rel=1e-4) and losses[0] != losses[-1]
    found, wanted = (log(tmp_path / name, "val")[-1] for name in ("both", "one"))
    assert found["expression/uar"] == pytest.approx(wanted["uar"], abs=1e-6)
    trained, alone = (load_model(tmp_path / name / "last") for name in ("both", "one"))
    for name, tensor in trained.of_head("expression").state_dict().items():
        assert_close(tensor, alone.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def trained(faces, partial, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    finetune(finetuning(faces, out, **{**SMALL, "manifest": partial, "heads": HEADS, "epochs": 1, "base_lr": 0.1}))
    return out


def test_validation_is_of_each_head_and_their_mean(trained):
    (shown,) = log(trained, "val")
    mains = [shown[key] for key in ("affect/ccc", "course/frame_ccc", "expression/uar")]
    assert shown["mean_score"] == pytest.approx(sum(mains) / 3)
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["chosen_by"] == "validation mean_score"


def test_the_line_at_the_end_has_the_scores_that_choose(faces, trained, capsys):
    """Of a frame-level head those of frames. The run is finished, so nothing is trained."""
    assert main(["finetune", "--config", str(trained / "config.yaml"), "--resume"]) == 0
    line, (shown,) = capsys.readouterr().err, log(trained, "val")
    for name, key in (
        ("affect: CCC", "affect/ccc"),
        ("course: frames: CCC", "course/frame_ccc"),
        ("expression: UAR", "expression/uar"),
        ("mean score", "mean_score"),
    ):
        assert f"{name} {shown[key]:.3f}" in line
    assert "course: CCC" not in line


def test_a_head_is_evaluated_as_a_model_with_it_alone(faces, trained, tmp_path):
    results = evaluate(EvaluateConfig(model=str(trained), manifest=faces / "test.csv", out=tmp_path / "all"))
    assert set(results.metrics["heads"]) == set(HEADS)
    for name in HEADS:
        load_model(trained).of_head(name).save_pretrained(tmp_path / name)
        alone = evaluate(
            EvaluateConfig(model=str(tmp_path / name), manifest=faces / "test.csv", out=tmp_path / f"{name}.e")
        )
        assert alone.metrics["intervals"] == results.metrics["heads"][name]["intervals"]
        files = [read_predictions(folder / "predictions.csv") for folder in (tmp_path / "all" / name, alone.out)]
        assert files[0].equals(files[1])


def test_a_head_is_evaluated_on_the_rows_with_its_labels(faces, trained, partial, tmp_path, capsys):
    found = evaluate(EvaluateConfig(model=str(trained), manifest=partial, out=tmp_path / "e", head="expression"))
    assert list(found.metrics["heads"]) == ["expression"]
    assert found.metrics["heads"]["expression"]["num_expected"] == 19
    assert "9 of 28 videos have no label of head expression" in capsys.readouterr().err
    seen = json.loads((tmp_path / "e" / "expression" / "metrics.json").read_text())["seen_in_training"]
    assert seen[str(trained)]["trained"] == 19

    def without(number, row):
        del row["label"]

    file = rewritten(faces, tmp_path / "values.csv", without)
    found = evaluate(EvaluateConfig(model=str(trained), manifest=file, out=tmp_path / "f"))
    assert set(found.metrics["heads"]) == {"affect", "course"}
    for head, message in (
        ("expression", "no row has a label of head expression"),
        ("mood", "no such head; it has affect"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(EvaluateConfig(model=str(trained), manifest=file, out=tmp_path / "f", head=head))


@pytest.fixture(scope="module")
def others(trained, tmp_path_factory) -> dict[str, Path]:
    """Models with other weights: with the same heads, with some of them, with other classes, and with one output."""
    out, model = tmp_path_factory.mktemp("others"), load_model(trained)
    for parameter in model.parameters():
        parameter.data += 0.01
    shape, (affect, course, expression) = model.config, model.config.heads
    renamed = replace(expression, label_names=(*expression.label_names[:-1], "joy"))
    for name, heads in {"same": shape.heads, "some": (affect, expression), "joy": (affect, course, renamed)}.items():
        kept = [number for number, (each, _) in enumerate(_outputs(shape)) if each in [head.name for head in heads]]
        weights = {**model.state_dict()}
        weights |= {part: weights[part][kept] for part in ("head.weight", "head.bias")}
        config = replace(shape, heads=heads, num_outputs=len(kept))
        type(model).with_weights(config, weights).save_pretrained(out / name)
    model.of_head("expression").save_pretrained(out / "one")
    return {folder.name: folder for folder in out.iterdir()}


def _outputs(shape) -> list[tuple[str, str]]:
    return [(head.name, name) for head in shape.heads for name in head.label_names]


@pytest.mark.parametrize("swapped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_ensemble_needs_the_same_heads_in_any_order(swapped, faces, trained, others, tmp_path):
    def run(name: str, head: str | None = None):
        models = [str(trained), str(others[name])]
        models = models[::-1] if swapped else models
        manifest = faces / "test.csv"
        return evaluate(EvaluateConfig(model=models, manifest=manifest, out=tmp_path / name, head=head, num_segments=1))

    refused = {
        (
            "some",
            None,
        ): "the models have different heads .*; choose one that all have with `head`, of affect, expression",
        ("some", "course"): f"head=course: {others['some']} has no such head; it has affect, expression",
        ("joy", None): "head expression: .*predicts .*joy.*; an ensemble predicts one thing",
        ("one", None): f"{others['one']}: has one output and no heads",
    }
    for (name, head), message in refused.items():
        with pytest.raises(UserError, match=message):
            run(name, head)
        assert not (tmp_path / name).exists()
    name, head, wanted = ("some", "expression", ["expression"]) if swapped else ("same", None, list(HEADS))
    assert list(run(name, head).metrics["heads"]) == wanted


def test_labels_that_a_head_does_not_know_are_told_before_any_is_evaluated(faces, trained, tmp_path, capsys):
    file = rewritten(faces, tmp_path / "m.csv", lambda n, row: row.update(label=row["label"].replace("happy", "joy")))
    words = ["evaluate", "--model", str(trained), "--manifest", str(file), "--out", str(tmp_path / "e")]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert "head expression: " in printed and "'joy' is not a known label" in printed
    assert "--head=expression and --label_map=auto" in printed and not (tmp_path / "e").exists()
    assert main([*words, "--head", "expression", "--label_map", "auto", "--num_segments", "1"]) == 0
    assert (tmp_path / "e" / "expression" / "metrics.json").is_file()


def test_several_manifests_each_with_some_of_the_labels(faces, tmp_path):
    """A video that both list has the labels of both, each in its row; a row without a label is left out."""

    def classes(number, row):
        row["mood"] = "" if number == 3 else row["label"]
        for name in ("label", "valence", "arousal", "frame_values"):
            del row[name]
        return number < 16

    def values(number, row):
        del row["label"], row["frame_values"]
        return number >= 14

    files = [rewritten(faces, tmp_path / f"{each.__name__}.csv", each) for each in (classes, values)]
    heads = {"expression": {"task": "classification", "label_column": "mood"}, "affect": HEADS["affect"]}
    config = finetuning(faces, tmp_path / "run", **{**SMALL, "manifest": [f"{files[0]}:1", f"{files[1]}:2"]})
    config = replace(config, heads=heads, val_manifest=None, val_fraction=0)
    task = FinetuneTask(config)
    assert len(task.manifest) == 15 + 14
    assert [part.table.shape[0] for part in task.manifest.parts] == [15, 14]
    targets = task.dataset.collate([task.dataset[row] for row in range(29)])
    assert (targets["head expression"] >= 0).tolist() == [True] * 15 + [False] * 14
    assert targets["head affect"].isfinite().all(1).tolist() == [False] * 15 + [True] * 14
    assert finetune(replace(config, epochs=1)).finished
    saved = load_model(tmp_path / "run").config
    assert {head.name: head.label_column for head in saved.heads} == {"affect": "label", "expression": "mood"}


def test_rows_without_any_label_are_left_out_with_a_message(faces, tmp_path, capsys):
    def change(number, row):
        row |= {"label": ""} if number < 2 else {}

    file = rewritten(faces, tmp_path / "m.csv", change)
    found = read_heads(weighted_paths(file), {"expression": {"task": "classification"}})
    assert len(found) == len(found.heads["expression"]) == 26
    assert "2 videos of 28 left out, without a label of any head: " in capsys.readouterr().err


def some_columns(faces: Path, tmp_path: Path) -> list[str]:
    """a.csv with classes, b.csv with values of clips, c.csv with files of frames, each of other videos."""
    kept = {"a": {"label"}, "b": {"valence", "arousal"}, "c": {"frame_values"}}

    def change(name, rows):
        def of_row(number, row):
            for other in {"label", "valence", "arousal", "dominance", "frame_values"} - kept[name]:
                del row[other]
            return number in rows

        return of_row

    parts = zip(kept, (range(10), range(10, 18), range(18, 28)), strict=True)
    return [str(rewritten(faces, tmp_path / f"{name}.csv", change(name, rows))) for name, rows in parts]


def test_a_number_of_a_clip_is_no_label_of_its_frames(faces, tmp_path, capsys):
    """Also of other dimensions than those of the clips, which the manifest of clips then need not have."""
    files = some_columns(faces, tmp_path)
    of_frames = {"task": "regression", "dimensions": ["valence", "arousal", "dominance"], "frame_level": True}
    heads = {"affect": HEADS["affect"], "course": of_frames, "moving": {**HEADS["affect"], "frame_level": True}}
    settings = {**SMALL, "manifest": [f"{file}:1" for file in files], "val_manifest": None, "val_fraction": 0}
    config = finetuning(faces, tmp_path / "run", **settings, heads={**heads, "expression": HEADS["expression"]})
    task = FinetuneTask(config)
    batch = task.dataset.collate([task.dataset[row] for row in range(len(task.manifest))])
    assert (batch["head expression"] >= 0).tolist() == [True] * 10 + [False] * 18
    assert batch["head affect"].isfinite().all(1).tolist() == [False] * 10 + [True] * 8 + [False] * 10
    for name in ("course", "moving"):
        assert batch[f"head {name}"].isfinite().all(2).all(1).tolist() == [False] * 18 + [True] * 10
        assert task.manifest.heads[name].table.get("valence") is None
    assert [len(head.labelled(task.manifest)) for head in task.heads] == [8, 10, 10, 10]
    capsys.readouterr()
    read_heads(weighted_paths(files), {"affect": {"task": "regression", "dimensions": ["valence", "arousal"]}})
    names = ", ".join(f"train_{number:06}.mp4" for number in range(5))
    assert f"20 videos of 28 left out, without a label of any head: {names}, …" in capsys.readouterr().err
    with pytest.raises(UserError, match="heads: course: no row of .*: it is frame-level, and there are no files in"):
        read_heads(weighted_paths(files[:2]), {"course": of_frames}, ["course"])


def test_cells_with_a_number_per_frame_are_labels_of_frames(faces, tmp_path):
    def change(number, row):
        del row["frame_values"]
        row["valence"] = "0.1 0.2" if number else "0.3"
        return number < 3

    file = rewritten(faces, tmp_path / "m.csv", change)
    heads = {"course": {"task": "regression", "dimensions": ["valence"], "frame_level": True}}
    found = read_heads(weighted_paths(file), heads, ["course"]).heads["course"]
    assert len(found) == 2 and found[0].frame_numbers.tolist() == [[0.1], [0.2]] and found[0].values is None


def test_a_manifest_with_some_dimensions_of_a_head_has_no_labels_of_it(faces, tmp_path, capsys):
    def change(number, row):
        file = Path(row["frame_values"])
        if number < 14:
            del row["arousal"]
            row["frame_values"] = str(tmp_path / file.name)
            text = file.read_text().replace("arousal", "other")
            (tmp_path / file.name).write_text(text)

    part = rewritten(faces, tmp_path / "part.csv", lambda n, row: change(n, row) if n < 14 else False)
    whole = rewritten(faces, tmp_path / "whole.csv", lambda n, row: n >= 14)
    affect = {"task": "regression", "dimensions": ["valence", "arousal"]}
    heads = {"affect": affect, "course": {**affect, "frame_level": True}}
    found = read_heads(weighted_paths([str(part), str(whole)]), heads, heads)
    assert len(found) == 14 and found.mixture.of.tolist() == [1] * 14
    said = capsys.readouterr().err
    assert f"{part}: no column arousal, so no labels of a head with valence, arousal" in said
    assert f"{part}: files of frame_values such as {tmp_path}/train_000000.csv: no column arousal, so" in said


@pytest.mark.parametrize("best_by", ["expression", None, "affect"])
def test_validation_needs_labels_of_the_head_that_chooses(best_by, faces, tmp_path, capsys):
    heads = {"affect": HEADS["affect"], "expression": HEADS["expression"]}
    val = some_columns(faces, tmp_path)[0]
    settings = {**SMALL, "heads": heads, "val_manifest": val, "epochs": 1, "best_by": best_by}
    config = finetuning(faces, tmp_path / "run", **settings)
    if best_by != "expression":
        fix = "of every head, or with `best_by` of that one alone" if best_by is None else "of this one"
        message = f"heads: affect: no row of {val} .* These are the validation videos, which need labels {fix}$"
        with pytest.raises(UserError, match=message):
            finetune(config)
        return
    assert finetune(config).finished
    assert f"heads: affect: is not validated, as no row of {val} has a label of it" in capsys.readouterr().err
    (shown,) = log(tmp_path / "run", "val")
    assert "expression/uar" in shown and not any(name.startswith(("affect/", "mean_score")) for name in shown)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["chosen_by"] == "validation expression/uar"
    assert [line["affect/loss"] > 0 for line in log(tmp_path / "run")]


def test_messages_of_the_command_name_keys_of_a_head_without_dashes(faces, tmp_path, capsys):
    heads = "{a: {task: regression, dimensions: [valence], output_activation: sigmoid}}"
    command = ["finetune", "--heads", heads, "--manifest", str(faces / "train.csv"), "--preset", "svfap_debug"]
    assert main([*command, "--out", str(tmp_path / "run"), "--epochs", "2", "--warmup_epochs", "1"]) == 1
    said = capsys.readouterr().err
    assert "error: --heads: a: " in said
    assert "set label_scaling: range, or output_activation: none, or label_range to leave out" in said


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"a": {"dimensions": ["v"]}}, "heads: a: give its task, classification or regression"),
        (
            {"a": {"task": "classification", "frame_level": True}},
            "heads: a: .*: files of frame_values, such as .*csv, have no column label; there are valence, arousal, dominance",
        ),
        (
            {"a": {"task": "regression", "dimensions": ["valencia"], "frame_level": True}},
            "heads: a: .*: files of frame_values, such as .*csv, have no column valencia; there are valence, ",
        ),
        ({"a": {"task": "sorting"}}, "heads: a: task: 'sorting' is none of classification, regression"),
        ({"a b": {"task": "classification"}}, "heads: a b: is no name of a head"),
        ({"a": "classification"}, "heads: a: 'classification' must be settings"),
        (
            {"a": {"task": "classification", "loss": "ccc"}},
            "heads: a: 'loss' is no setting of a head for classification",
        ),
        ({"a": {"task": "regression"}}, "heads: a: give dimensions, the columns"),
        (
            {"a": {"task": "regression", "dimensions": "valence"}},
            "heads: a: dimensions: 'valence' must be a list of names",
        ),
        ({"a": {"task": "regression", "dimensions": ["v", "v"]}}, "must be a list of different names"),
        ({"a": {"task": "classification", "weight": -1}}, "heads: a: weight: -1 must be a number, at least 0"),
        (
            {"a": {"task": "classification", "weight": 0}, "b": {"task": "classification", "weight": 0.0}},
            "heads: all weights are 0, so nothing would be learned",
        ),
        ({"a": {"task": "classification", "frame_level": "yes"}}, "heads: a: frame_level: 'yes' must be true or false"),
        (
            {"a": {"task": "regression", "dimensions": ["v"], "loss": "l1"}},
            "heads: a: loss: 'l1' is none of mse, ccc, pcc",
        ),
        (
            {"a": {"task": "regression", "dimensions": ["v"], "label_range": [1]}},
            "heads: a: label_range: .* must be two numbers",
        ),
        (
            {"a": {"task": "classification", "label_column": "mood"}},
            "heads: a: no row of .*train.csv has a label of it: the file has no column mood; .* label_column$",
        ),
        (
            {"a": {"task": "regression", "dimensions": ["valence", "joy"]}},
            "heads: a: .*the file has no column joy; there are path.* correct dimensions$",
        ),
        ({"a": {"task": "classification", "label_names": ["happy"]}}, "heads: a: .* is not a known label"),
    ],
)
def test_heads_that_cannot_be_used(heads, message, faces, tmp_path):
    with pytest.raises(UserError, match=message):
        FinetuneTask(finetuning(faces, tmp_path / "run", heads=heads))


def test_an_empty_column_is_told_from_none(faces, tmp_path):
    empty = dict.fromkeys(("label", "valence", "arousal"), "")
    file = weighted_paths(rewritten(faces, tmp_path / "m.csv", lambda number, row: row.update(empty)))
    heads = {"e": {"task": "classification"}, "a": {"task": "regression", "dimensions": ["valence", "arousal"]}}
    for name, message in (("e", "column label is empty"), ("a", "columns valence, arousal are empty")):
        with pytest.raises(UserError, match=f"heads: {name}: no row of .* has a label of it: {message}"):
            read_heads(file, heads, [name])


def test_a_class_without_a_video_is_refused(faces, tmp_path):
    names = ["angry", "bored", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    with pytest.raises(UserError, match="heads: a: no training video of .* has the class bored; leave it out"):
        heads = {"a": {"task": "classification", "label_names": names}}
        FinetuneTask(finetuning(faces, tmp_path / "run", heads=heads))


def test_half_of_the_dimensions_of_a_head_is_refused(faces, tmp_path):
    file = rewritten(faces, tmp_path / "m.csv", lambda number, row: row.update(arousal="") if number == 4 else None)
    with pytest.raises(UserError, match="row 6, column 'arousal': is missing, while the row has another dimension"):
        FinetuneTask(finetuning(faces, tmp_path / "run", manifest=file, heads={"affect": HEADS["affect"]}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "classification"}, "task=classification: with `heads`, give it to a head"),
        ({"balanced_sampling": True}, "balanced_sampling=True: is not possible with `heads`"),
        ({"best_by": "mood"}, "best_by=mood: is the name of one of `heads`; there are affect, course, expression"),
    ],
)
def test_settings_of_the_run_beside_heads(settings, message, faces, tmp_path):
    with pytest.raises(UserError, match=message):
        finetuning(faces, tmp_path / "run", heads=HEADS, **settings)


# what else reads such a run --------------------------------------------------------------------------------------------


def test_the_log_has_the_loss_of_each_head_whose_sum_is_minimised(trained):
    for line in log(trained):
        parts = [line[f"{name}/loss"] for name in HEADS]
        assert min(parts) > 0 and sum(parts) == pytest.approx(line["loss"], rel=1e-6)


@pytest.mark.parametrize("trainable", ["last:1", "lora"])
def test_a_part_of_the_encoder_is_trained_with_several_heads(trainable, faces, tmp_path):
    if trainable == "lora":
        pytest.importorskip("peft")
    settings = {**SMALL, "heads": HEADS, "epochs": 1, "trainable": trainable}
    task = FinetuneTask(finetuning(faces, tmp_path / "run", **settings))
    before = {name: value.clone() for name, value in task.model.head.state_dict().items()}
    assert TrainingRun(task, task.config).train().finished
    saved = load_model(tmp_path / "run")
    assert [head.name for head in saved.config.heads] == list(HEADS)
    assert not any(torch.equal(value, before[name]) for name, value in saved.head.state_dict().items())


def test_a_report_has_a_section_of_each_head_and_compare_takes_each(faces, trained, tmp_path, capsys):
    evaluate(EvaluateConfig(model=str(trained), manifest=faces / "test.csv"))
    assert main(["report", str(trained), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert all(f"{trained.name}/{name}" in page for name in HEADS)
    assert "tested on different videos" not in page
    assert main(["report", f"{trained}/evaluation/affect", "--out", str(tmp_path / "affect.html")]) == 0
    assert "no run has been evaluated" not in capsys.readouterr().err
    assert main(["runs", str(trained), "--out", str(tmp_path / "runs.csv")]) == 0
    listed = {row["run"].rpartition("/")[2]: row for row in csv.DictReader((tmp_path / "runs.csv").open())}
    assert float(listed["."]["validation"]) == log(trained, "val")[0]["mean_score"]
    assert float(listed["expression"]["test"]) >= 0
    shutil.copytree(trained / "evaluation", tmp_path / "evaluated")
    assert [head.name for head in read_run(tmp_path / "evaluated").heads] == [f"evaluated/{name}" for name in HEADS]
    folders = [f"{trained}/evaluation/{name}" for name in ("expression", "affect")]
    shutil.copytree(trained, tmp_path / "other")
    others = tmp_path / "other" / "evaluation" / "expression"
    assert main(["compare", f"a={folders[0]}", f"b={others}", "--out", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    assert main(["compare", str(trained), folders[0], "--out", str(tmp_path / "d")]) == 1
    assert f"has several heads; name the evaluation of one, of {trained}/evaluation/affect" in capsys.readouterr().err
    assert main(["compare", *folders, "--out", str(tmp_path / "e")]) == 1


def test_what_takes_one_output_says_how_to_take_one_head(trained, tmp_path, capsys):
    assert main(["convert", str(trained), str(tmp_path / "c.pth")]) == 1
    assert "several heads, and the published code one; save one of them first" in capsys.readouterr().err
    pytest.importorskip("transformers")
    from svfap.huggingface.modeling import SVFAPForVideoClassification

    with pytest.raises(UserError, match="several heads .affect, course, expression., and transformers takes one"):
        SVFAPForVideoClassification.from_pretrained(trained / "best")
    load_model(trained).of_head("expression").save_pretrained(tmp_path / "one")
    model = SVFAPForVideoClassification.from_pretrained(tmp_path / "one").eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    ours = load_model(trained).eval()(clips)["expression"]
    assert_close(model(pixel_values=clips.transpose(1, 2)).logits, ours, rtol=1e-4, atol=1e-5)
