"""What models cost, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from svfap.errors import UserError
from svfap.model.complexity import complexity
from svfap.model.config import CONFIG_FILE, ModelConfig
from svfap.model.presets import PRESETS, list_presets, model_config
from svfap.settings import is_exported
from svfap.shipped import CARD_FILE, SHIPPED, local_model, shipped_folder
from svfap.weights.exported import load_for_inference
from svfap.weights.folder import WEIGHTS_FILE


def preset_table() -> Table:
    """All presets with their sizes and multiply-adds."""
    table = Table(title="Presets (multiply-adds of one clip: fine-tuning, and pre-training at the preset's masking)")
    for column in ("preset", "clip", "width", "blocks", "parameters, M", "fine-tune, G", "pre-train, G"):
        table.add_column(column, justify="left" if column == "preset" else "right", no_wrap="," not in column)
    for name in list_presets():
        config = model_config(name, "features")
        finetuning, pretraining = complexity(config), complexity(model_config(name, "pretraining"))
        sizes = (_clip(config), str(config.embed_dim), "+".join(map(str, config.stage_depths)))
        counts = (_billions(cost.multiply_adds) for cost in (finetuning, pretraining))
        table.add_row(name, *sizes, f"{finetuning.parameters / 1e6:.2f}", *counts)
    return table


def model_tables(model: str, mask_ratio: float | None = None) -> list[Table]:
    """Costs of each part of a preset (as a task model and as a pre-training model) or of a model that `load_model` reads.

    The table that describes a shipped model comes before them. mask_ratio: used instead of the model's. Raises `UserError` if
    there is no such model.
    """
    if model in PRESETS:
        configs = [model_config(model, task) for task in ("features", "pretraining")]
    elif local_model(model) is not None or "/" in model or is_exported(model):
        configs = [load_for_inference(model).config]
    else:
        raise UserError(f"{model!r} is neither a preset ({', '.join(list_presets())}) nor a folder nor a shipped model")
    if mask_ratio is not None:
        configs = [replace(config, mask_ratio=mask_ratio) for config in configs]
    predicts = shipped_folder(model) is not None and "scores" in configs[0].provenance
    described = [shipped_table(model)] if predicts else []
    return [*described, *(_model_table(model, config) for config in configs)]


def shipped_table(name: str) -> Table:
    """What a model that comes with the package reads, takes and costs, how good it is, and where its card is."""
    folder = SHIPPED / name
    config = ModelConfig.read(folder / CONFIG_FILE)
    known = config.provenance
    table = Table(title=f"{name}: {config.reads}", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    taken = "a frame" if config.num_frames == 1 else f"{config.num_frames} frames"
    rows = [
        ("reads", known["summary"]),
        *((f"  {output}", meaning) for output, meaning in zip(config.label_names, config.meanings, strict=True)),
        ("takes", f"{taken} of a face crop, {config.img_size} × {config.img_size} pixels"),
        (
            "size",
            f"{known['parameters'] / 1e6:.2f} M parameters; {(folder / WEIGHTS_FILE).stat().st_size / 1e6:.1f} MB in the file, "
            f"{4 * known['parameters'] / 1e6:.1f} MB as float32",
        ),
        ("licence", known["licence"]),
        ("measured on", known["measured_on"]),
        *((f"  {output}", _agreement(known["scores"][output])) for output in config.label_names),
        ("card", str(folder / CARD_FILE)),
        ("use", f"svfap predict VIDEO --model {name}"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _agreement(scores: Mapping[str, Sequence[float]]) -> str:
    """CCC over all frames and within people as text; scores: key -> (value, low, high)."""
    parts = {"CCC": scores["ccc"], "within people": scores["ccc_within_people"]}
    return ", ".join(f"{what} {value:.2f} ({low:.2f} to {high:.2f})" for what, (value, low, high) in parts.items())


def _model_table(name: str, config: ModelConfig) -> Table:
    cost = complexity(config, measure_activations=True)
    pretraining = f"pre-training at {config.mask_ratio:.0%} masking"
    task = {"pretraining": pretraining, "features": "fine-tuning (without head)"}.get(config.task, config.task)
    table = Table(title=f"{name}: {task}, clip {_clip(config)}")
    for column in ("part", "tokens (time × space)", "multiply-adds, G"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, count in cost.by_part.items():
        table.add_row(part, cost.tokens.get(part, ""), _billions(count))
    table.add_section()
    totals = {"multiply-adds": _billions(cost.multiply_adds)}
    if cost.multiply_adds != cost.multiply_adds_done:
        totals = {
            "multiply-adds, all tubelets embedded (the paper's count)": _billions(cost.multiply_adds),
            "multiply-adds, only visible tubelets embedded (as computed)": _billions(cost.multiply_adds_done),
        }
    totals["parameters, M"] = f"{cost.parameters / 1e6:.2f}"
    totals["weights, float32, MB"] = _megabytes(cost.weight_bytes)
    totals["weights, gradients and AdamW state, MB"] = _megabytes(cost.train_state_bytes)
    totals["activations kept for training, float32, MB a clip"] = _megabytes(cost.activation_bytes or 0)
    for label, value in totals.items():
        table.add_row(label, "", value)
    if name not in PRESETS:
        table.add_section()
        for label, value in config.contract.items():
            table.add_row(label, "", value)
    return table


def _clip(config: ModelConfig) -> str:
    return f"{config.num_frames}×{config.img_size}×{config.img_size}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}"
