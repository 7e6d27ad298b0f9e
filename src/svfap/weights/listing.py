"""The models that are known, here and elsewhere: one table, and cards of published models."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from svfap.catalogue import CATALOGUE, Published
from svfap.datasets.dataset import get_dataset
from svfap.model.config import CONFIG_FILE, ModelConfig
from svfap.model.presets import model_config
from svfap.shipped import SHIPPED, list_models
from svfap.weights.folder import has_model, model_folder

COLUMNS = ("model", "outputs", "takes", "licence")


def models_table(folder: Path | None = None) -> Table:
    """Models that come with the package, those in a folder of one's own, and published ones, with what each is and needs."""
    table = Table(show_lines=True)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == COLUMNS[0] and folder is None)
    for name in list_models():
        config = ModelConfig.read(SHIPPED / name / CONFIG_FILE)
        table.add_row(name, _outputs(config), _takes(config), _licence(config))
    for found in [] if folder is None else own_models(folder):
        config = ModelConfig.read(model_folder(found) / CONFIG_FILE)
        table.add_row(str(found), _outputs(config), _takes(config), _licence(config))
    for title, entries in groups():
        config = config_of(entries[0])
        licence = f"{entries[0].licence}; data: {data_licence(entries[0])}"
        table.add_row(title, _outputs(config), _takes(config), licence)
    return table


def groups() -> list[tuple[str, list[Published]]]:
    """The catalogue by page and dataset, with names that cover all folds: authors/dfew-1 to 5."""
    by_dataset = [list(group) for _, group in groupby(CATALOGUE, lambda entry: (entry.page, entry.dataset))]
    return [(group[0].name + (f" to {len(group)}" if len(group) > 1 else ""), group) for group in by_dataset]


def lines_of_getting() -> list[str]:
    """For each group of the catalogue where it is, and the commands that get it."""
    return [f"{title}: {group[0].page}; {how_to_get(group[0])}" for title, group in groups()]


def own_models(folder: Path) -> list[Path]:
    """The folders of models and runs in a folder, at most two levels below it, by name."""
    candidates = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    found: list[Path] = []
    for path in sorted(path for path in candidates if path.is_dir() and has_model(path)):
        if not any(parent in found for parent in path.parents):  # best/ and last/ of a run
            found.append(path)
    return found


def config_of(entry: Published) -> ModelConfig:
    """What is known of the model of an entry: its size, and labels and input of its dataset."""
    if entry.dataset is None:
        return model_config(entry.preset, "pretraining", img_size=entry.img_size)
    dataset = get_dataset(entry.dataset)
    known: dict[str, Any] = {
        "sampling_stride": dataset.sampling_stride,
        "frame_rate": dataset.frame_rate,
        "img_size": entry.img_size,
    }
    known["face_crop"] = dict(dataset.face_crop)
    if not dataset.label_names:
        return model_config(entry.preset, "pretraining", **known)
    names = dataset.label_names
    return model_config(entry.preset, dataset.task, label_names=names, num_outputs=len(names), **known)


def how_to_get(entry: Published) -> str:
    """The commands for a model of the catalogue."""
    short = entry.name.rpartition("/")[2]
    if entry.file is None:
        return f"--model {entry.name} or --init {entry.name} downloads it; svfap convert {entry.name} models/{short} keeps it"
    return f"download it as {entry.file}; svfap convert {entry.file} models/{short} --dataset {entry.dataset}"


def data_licence(entry: Published) -> str:
    """The licence of the videos that a model was trained on."""
    return "see its page" if entry.dataset is None else get_dataset(entry.dataset).licence


def published_card(entry: Published) -> str:
    """The card of a model of the catalogue as Markdown."""
    config = config_of(entry)
    trained_on = entry.trained_on or get_dataset(entry.dataset or "").title
    rows = {
        "described at": entry.page,
        "file": entry.address,
        "licence of the weights": f"{entry.licence}: neither claimed nor granted here",
        "trained on": trained_on + (f", fold {entry.fold}" if entry.fold else ""),
        "licence of these videos, which may bind the weights": data_licence(entry),
        "outputs": _outputs(config),
        "takes": _takes(config),
    }
    if entry.reported is not None:
        uar, war = entry.reported
        rows["scores that its authors report, not verified here"] = f"UAR {uar:.2f}, WAR {war:.2f}"
    lines = [f"# Model card: {entry.name}", "", "It does not come with SVFAP.", "", "| | |", "| --- | --- |"]
    lines += [f"| {what} | {value} |" for what, value in rows.items()]
    return "\n".join([*lines, "", "## Get it", "", *_steps(entry), "", "## Limits", "", *_limits(entry), ""])


def _steps(entry: Published) -> Iterable[str]:
    name = entry.name.rpartition("/")[2]
    if entry.file is None:
        return [
            f"    svfap finetune --init {entry.name} --preset {entry.preset} --manifest train.csv --out runs/finetune"
        ]
    steps = [f"Open the address of the file in a browser, and save the file as `{entry.file}`. Then either", ""]
    steps += [
        f"    svfap convert {entry.file} models/{name} --dataset {entry.dataset}",
        "",
        "or name the file itself:",
        "",
    ]
    if config_of(entry).task == "pretraining":
        return [
            *steps,
            f"    svfap finetune --init {entry.file} --preset {entry.preset} --manifest train.csv --out runs/finetune",
        ]
    return [*steps, f"    svfap predict interview.mp4 --model {entry.file}"]


def _limits(entry: Published) -> Iterable[str]:
    yield "- Nobody has run it here: neither the file nor the data are part of this repository."
    if config_of(entry).frame_rate is None and entry.dataset is not None:
        yield "- Frame rate and face crops of its training are not documented, so those of your videos may differ from them."
    if entry.dataset is None:
        yield "- It has seen actions and no affect, and predicts nothing before it is fine-tuned."
    elif config_of(entry).task != "pretraining":
        yield "- Its outputs are what annotators of films called the faces, not what a person feels."


def _outputs(config: ModelConfig) -> str:
    names = "; ".join(f"{head}: " * bool(head) + ", ".join(shape.label_names) for head, shape in config.outputs.items())
    return names or {"pretraining": "none: pre-trained", "features": "none: features"}.get(config.task, "no names")


def _takes(config: ModelConfig) -> str:
    """The input contract in one line."""
    clip = "a frame" if config.num_frames == 1 else f"{config.num_frames} frames"
    stride = f", one frame in {config.sampling_stride}" if config.num_frames > 1 and config.sampling_stride > 1 else ""
    known = config.contract
    rate, crop = known["frames a second in training"], known["face crops of training"]
    return f"{clip} of {config.img_size} × {config.img_size}{stride}; frames a second: {rate}; face crop: {crop}"


def _licence(config: ModelConfig) -> str:
    """That of weights of which it is known; else that of the data, as a card has it."""
    licence = config.provenance.get("licence")
    if not licence:
        return "not stated"
    return str(licence) if "parameters" in config.provenance else f"not stated; data: {licence}"
