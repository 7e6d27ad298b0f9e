"""Published checkpoints to model folders, and models to the published format."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from svfap.console import say
from svfap.errors import UserError
from svfap.files import make_folder, replacing_folder
from svfap.model.base import Model
from svfap.settings import HUB_PREFIX
from svfap.shipped import find_model
from svfap.weights.checkpoint import Checkpoint, read_published
from svfap.weights.config import ConvertConfig, require_new
from svfap.weights.described import build_described
from svfap.weights.folder import has_model, load_model
from svfap.weights.published import save_published, why_unpublishable

PUBLISHED_SUFFIXES = (".pth", ".pt")


class Conversion(NamedTuple):
    """model: as written. checkpoint: the published one that it was read from; None where it was a model folder."""

    model: Model
    checkpoint: Checkpoint | None


def convert(model: str | Path, out: str | Path, config: ConvertConfig | None = None) -> Conversion:
    """Convert a published checkpoint or a model folder to a model folder or the published format.

    model: a checkpoint file of SVFAP or VideoMAE (.pth, .pt, .bin, .safetensors), or what `load_model` takes otherwise;
    hf://OWNER/NAME is copied into a folder.
    out: a new folder (config.json, model.safetensors), or a new .pth or .pt file. config: settings not stored in it.
    Executes no code from the checkpoint. Raises `UserError` if `out` exists, the settings do not fit the checkpoint, or a tensor
    is left over, missing or of another shape, and for a model folder that cannot be written in the published format.
    """
    config, out = config or ConvertConfig(), Path(out)
    require_new(out)
    make_folder(out.absolute().parent)
    checkpoint, found = None, find_model(model)
    source = None if found is None else found.path
    loaded = load_model(source) if source is not None and not source.is_file() and has_model(source) else None
    if found is not None and source is not None and source.is_file():
        checkpoint = read_published(source, config.ema)
        dataset = config.dataset or found.dataset
        converted = build_described(checkpoint, dataset, config.task, config.model_settings())
        if converted.config.task in ("classification", "regression") and not converted.config.label_names:
            say("warning: the outputs have no names; give --dataset or --label_names")
    elif loaded is not None and (reason := why_unpublishable(loaded.config)):
        raise UserError(f"{model}: {reason}")
    elif out.suffix not in PUBLISHED_SUFFIXES and not str(model).startswith(HUB_PREFIX):
        problem = "is a folder" if source is not None else "no such file"
        raise UserError(f"{model}: {problem}; give a checkpoint file, or let OUT end in .pth to write one")
    elif config != ConvertConfig():
        raise UserError(f"{model}: the config.json of a model folder is complete; leave out all settings")
    else:
        converted = loaded or load_model(model)
    if out.suffix in PUBLISHED_SUFFIXES:
        save_published(converted, out)
    else:
        with replacing_folder(out) as folder:
            converted.save_pretrained(folder)
    return Conversion(converted, checkpoint)
