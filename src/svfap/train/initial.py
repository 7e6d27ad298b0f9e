"""The weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.mae import MaskedAutoencoder
from svfap.train.contract import warn_of_other_contract
from svfap.weights.checkpoint import read_published
from svfap.weights.folder import init_autoencoder, init_encoder, load_model
from svfap.weights.published import build_published


def start_from(model: Model, init: str) -> None:
    """Copy the weights of `init` into a new model: the encoder, and for pre-training the decoder too where it fits.

    init: a run or model folder, a Hub name, or a published checkpoint. Pictures and clips may have another size there, as
    positions are computed. Says what is new, and how the videos differ. Raises `UserError` where the encoders differ.
    """
    pretrains = isinstance(model, MaskedAutoencoder)
    initial = read_initial(init, model)
    warn_of_other_contract(init, initial.config, model.config)
    try:
        new = init_autoencoder(model, initial) if isinstance(model, MaskedAutoencoder) else init_encoder(model, initial)
    except UserError as error:
        raise UserError(f"init={init}: {error}") from None
    if pretrains and not new:
        say(f"encoder and decoder from {init}")
    else:
        say(f"encoder from {init}; new: {'the decoder' if pretrains else ', '.join(new)}")


def read_initial(init: str, model: Model) -> Model:
    """The model that `model` starts from. Raises `UserError`."""
    pretrains = isinstance(model, MaskedAutoencoder)
    if not Path(init).is_file():
        return load_model(init)
    checkpoint = read_published(init)
    # What the tensors of a published checkpoint do not show is taken to be as in `model`, unless the file says it.
    names = ("num_heads", "stage_depths", "img_size", "num_frames", "pixel_mean", "pixel_std", "decoder_num_heads")
    given = {name: getattr(model.config, name) for name in names if name not in checkpoint.settings}
    if pretrains:
        return build_published(checkpoint, **given)
    return build_published(checkpoint, "features", fuse_stages=model.config.fuse_stages, **given)
