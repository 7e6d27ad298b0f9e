"""What all models share: config, saving and loading as a folder (`config.json`, `model.safetensors`), initial weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import Tensor, nn

from svfap.errors import UserError
from svfap.model.card import write_card
from svfap.model.config import CONFIG_FILE, ModelConfig
from svfap.model.encoder import TPSBT
from svfap.model.layers import sincos_positions


class Model(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="svfap",
    paper_url="https://arxiv.org/abs/2401.00416",
    tags=["facial-affect", "video", "masked-autoencoder"],
):
    """Base of `MaskedAutoencoder` and `Perceiver`, which `svfap.model.build` imports; `Model.from_pretrained` loads either.

    `save_pretrained(folder)` and `from_pretrained(folder)` use JSON and safetensors, never pickle.
    """

    tasks: tuple[str, ...] = ()
    encoder: TPSBT

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.task not in self.tasks:
            raise UserError(
                f"a {type(self).__name__} is for {' or '.join(self.tasks)}, but the model's config says task={config.task!r}; "
                "svfap.load_model picks the right class"
            )
        self.config = config

    @classmethod
    def _from_pretrained(cls, *, config: Any, strict: bool = True, **kwargs: Any) -> Model:  # type: ignore[override]
        """Rebuild the config from its JSON and load strictly: a missing or unexpected tensor is an error."""
        if not isinstance(config, ModelConfig):
            config = ModelConfig.from_dict(config, Path(kwargs["model_id"]) / CONFIG_FILE)
        if cls is Model and (classes := [each for each in Model.__subclasses__() if config.task in each.tasks]):
            return classes[0]._from_pretrained(config=config, strict=strict, **kwargs)
        folder = Path(kwargs["model_id"])
        if not folder.is_dir():
            return super()._from_pretrained(config=config, strict=strict, **kwargs).eval()
        tensors = load_file(folder / "model.safetensors")
        if strict:
            return cls.with_weights(config, tensors)
        model = cls(config)
        model.load_state_dict(tensors, strict=False)
        return model.eval()

    @classmethod
    def with_weights(cls, config: ModelConfig, tensors: Mapping[str, Tensor]) -> Self:
        """The model of a config in eval mode, with all its weights copied from `tensors`; none are initialised before."""
        with torch.device("meta"):
            model = cls(config)
        return model.filled(tensors)

    def filled(self, tensors: Mapping[str, Tensor]) -> Self:
        """This model, made on the device "meta", in eval mode with all its weights copied from `tensors`."""
        kind: dict[str, Any] = dict(
            device="cpu", dtype=torch.get_default_dtype(), memory_format=torch.contiguous_format
        )
        self.load_state_dict({name: tensor.to(copy=True, **kind) for name, tensor in tensors.items()}, assign=True)
        fill_positions(self)
        return self.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Weights, and the config in the current version of its format."""
        super()._save_pretrained(save_directory)
        self.config.write(save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """`README.md` of a saved model."""
        return write_card(self.config, copy.deepcopy(self._hub_mixin_info.model_card_data))

    def denormalize(self, clip: Tensor) -> Tensor:
        """Pixels in [0, 1] of normalised ones: (B, 3, T, H, W) float -> the same shape and dtype."""
        mean, std = (clip.new_tensor(v).view(3, 1, 1, 1) for v in (self.config.pixel_mean, self.config.pixel_std))
        return clip * std + mean


def fill_positions(model: nn.Module) -> None:
    """Compute the positions of a model, which are no weights, so not stored."""
    for module in model.modules():
        if isinstance(positions := getattr(module, "positions", None), Tensor):
            device = "cpu" if positions.is_meta else positions.device
            module.positions = sincos_positions(*positions.shape).to(device)


def init_linear(model: nn.Module, init: Callable[[Tensor], object]) -> None:
    """Initialise the weights of all linear layers by `init`, and their biases by zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
