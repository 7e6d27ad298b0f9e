"""Which parameters fine-tuning changes: all, those of the last layers, or low-rank adapters beside frozen ones."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from svfap.console import counted
from svfap.errors import require_package
from svfap.model.base import Model
from svfap.model.layers import Block
from svfap.train.config import FinetuneConfig
from svfap.train.optim import layer_of

ADAPTED = (
    r"encoder\.stages\.\d+\.blocks\..*\.(qkv|q|kv|proj|fc1|fc2)"  # the linear layers of attention and feed-forward
)
ADAPTER = "default"


class Trainable:
    """The parameters of a model that `config.trainable` names; all others are frozen from now on.

    With "lora" the model gets adapters (Hu et al., ICLR 2022): the linear layers of its blocks become y = W x + s B A x, with
    B zero at first. Layers are those of `layer_of`, by the rule "depth". Raises `UserError` where peft is missing.
    """

    def __init__(self, model: Model, config: FinetuneConfig) -> None:
        self.model, self.every, depths = model, config.unfreeze_every, model.config.stage_depths
        self.head = sum(depths) + 1
        first = self.head - config.trained_blocks
        if config.trainable == "lora":
            add_adapters(model, config.lora_rank, config.lora_alpha)
            first = self.head
        self._chosen: list[tuple[int, nn.Parameter]] = []
        for name, parameter in model.named_parameters():
            layer = layer_of(name, depths, "depth")
            parameter.requires_grad_(layer >= first or ".lora_" in name)
            if parameter.requires_grad:
                self._chosen.append((layer, parameter))

    def __str__(self) -> str:
        """As "trained: 0.1 of 3.2 million parameters", and when which layers are."""
        trained, everything = count_parameters(self.model)
        text = f"trained: {trained / 1e6:.3g} of {everything / 1e6:.3g} million parameters"
        if self.every is None:
            return text
        layers, every = self.head - self._lowest, "epoch" if self.every == 1 else counted(self.every, "epoch")
        return (
            f"{text}; the head alone until epoch {self.every}, then one layer more every {every}, "
            f"{counted(layers, 'layer')} in all from epoch {layers * self.every + 1} on"
        )

    def first_layer(self, epoch: int) -> int:
        """The lowest layer that is trained in an epoch (from 1): after each `every` epochs one more, from the head down."""
        return self._lowest if self.every is None else max(self._lowest, self.head - (epoch - 1) // self.every)

    @property
    def _lowest(self) -> int:
        return min((layer for layer, _ in self._chosen), default=self.head)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze what is not trained in this epoch; a block that is frozen as a whole drops no paths."""
        first = self.first_layer(epoch)
        for layer, parameter in self._chosen:
            parameter.requires_grad_(layer >= first)
            if layer < first:
                parameter.grad = None  # by which the optimiser leaves it as it is
        for module in self.model.modules():
            if isinstance(module, Block):
                module.train(any(parameter.requires_grad for parameter in module.parameters()))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The number of parameters that are trained now, adapters included, and of all that a saved model has."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(map(Tensor.numel, plain_weights(model).values()))


def add_adapters(model: Model, rank: int, alpha: float | None) -> None:
    """Put low-rank adapters into every block, with a scale s of alpha / rank; default: 2. Raises `UserError` without peft."""
    peft = require_package("peft", "lora", "trainable=lora")
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=ADAPTED)
    peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)


def plain_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights of the model under their ordinary names, with adapters merged into them: W + s B A."""
    weights = model.state_dict()
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # an adapted layer
            layer = module.get_base_layer()
            weights = {key: tensor for key, tensor in weights.items() if not key.startswith(f"{name}.")}
            weights |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
            weights[f"{name}.weight"] = layer.weight.detach() + module.get_delta_weight(ADAPTER).detach()
    return weights
