"""What models cost, as tables for the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table

from svfap.errors import UserError
from svfap.model.complexity import complexity
from svfap.model.config import ModelConfig
from svfap.model.presets import PRESETS, list_presets, model_config
from svfap.weights.folder import load_model


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

    mask_ratio: used instead of the model's. Raises `UserError` if there is no such model.
    """
    if model in PRESETS:
        configs = [model_config(model, task) for task in ("features", "pretraining")]
    elif Path(model).exists() or "/" in model:
        configs = [load_model(model).config]
    else:
        raise UserError(f"{model!r} is neither a preset ({', '.join(list_presets())}) nor a folder")
    if mask_ratio is not None:
        configs = [replace(config, mask_ratio=mask_ratio) for config in configs]
    return [_model_table(model, config) for config in configs]


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
    totals["weights, float32, MB"] = f"{cost.weight_bytes / 1e6:.0f}"
    totals["weights, gradients and AdamW state, MB"] = f"{cost.train_state_bytes / 1e6:.0f}"
    totals["activations kept for training, float32, MB a clip"] = f"{(cost.activation_bytes or 0) / 1e6:.0f}"
    for label, value in totals.items():
        table.add_row(label, "", value)
    if name not in PRESETS:
        table.add_section()
        for label, value in config.contract.items():
            table.add_row(label, "", value)
    return table


def _clip(config: ModelConfig) -> str:
    return f"{config.num_frames}×{config.img_size}×{config.img_size}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}"
