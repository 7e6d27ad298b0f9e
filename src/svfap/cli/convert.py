"""`svfap convert`: published checkpoints to model folders and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from svfap.console import say, show
from svfap.errors import UserError
from svfap.settings import HUB_PREFIX, refuse_exported
from svfap.shipped import did_you_mean, local_model
from svfap.weights.config import ConvertConfig, require_new
from svfap.weights.filetype import require_checkpoint

if TYPE_CHECKING:
    from svfap.model.config import ModelConfig
    from svfap.weights.checkpoint import Checkpoint


def run(config: ConvertConfig, model: str, out: Path) -> None:
    """Convert, and show what a published checkpoint contained."""
    if (path := local_model(model)) is None and not model.startswith(HUB_PREFIX):
        raise UserError(
            f"{model}: no such file or folder{did_you_mean(model)}; give a checkpoint file, the folder of a model or run, or hf://OWNER/NAME"
        )
    refuse_exported(model)
    if path is not None and path.is_file():
        require_checkpoint(path)
    require_new(out)
    from svfap.weights.convert import convert

    converted = convert(model, out, config)
    if converted.checkpoint is not None:
        show(_table(converted.checkpoint, converted.model.config))
    say(f"written: {out}")


def _table(checkpoint: Checkpoint, config: ModelConfig) -> Table:
    """What a published checkpoint contained, and the model made of it."""
    kind = "pre-trained" if checkpoint.pretrained else "fine-tuned"
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    rows = {
        "checkpoint": f"{kind}, {checkpoint.naming} naming, epoch {checkpoint.epoch}",
        "tensors": f"{len(checkpoint.tensors)}, {count / 1e6:.2f} M numbers",
        "model": f"{config.preset}, {config.task}",
        "encoder": f"width {config.embed_dim}, {config.num_heads} heads, {'+'.join(map(str, config.stage_depths))} blocks",
        "clip": f"{config.num_frames}×{config.img_size}×{config.img_size}, every {config.sampling_stride} frames",
    }
    rows |= config.contract
    if config.task == "pretraining":
        width, heads, depth = config.decoder_embed_dim, config.decoder_num_heads, config.decoder_depth
        rows["decoder"] = f"width {width}, {heads} heads, {depth} blocks"
    elif config.task != "features":
        outputs = ", ".join(config.label_names) or str(config.num_outputs)
        rows["outputs"] = outputs if config.output_activation == "none" else f"{outputs} ({config.output_activation})"
    if new := config.provenance.get("new_parameters"):
        rows["new, untrained"] = ", ".join(new)
    if guessed := config.provenance.get("guessed"):
        rows["not stored in the file"] = ", ".join(f"{name}={getattr(config, name)}" for name in guessed)
    table = Table(title=checkpoint.source, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
