"""The models for transformers: the same modules and parameters, under the same names, as those of this package."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import ModelOutput

from svfap.huggingface.configuration import SVFAPConfig
from svfap.model.base import Model, fill_positions
from svfap.model.build import build_model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import TubeMask, tube_mask
from svfap.model.perceiver import Perceiver

INITIALISED = "_is_hf_initialized"  # transformers' mark of tensors that have their values
REGISTRIES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


class SVFAPPreTrainedModel(PreTrainedModel):
    """Base of the models below. `svfap` is the model as one of this package: `Perceiver` or `MaskedAutoencoder`."""

    config_class = SVFAPConfig
    main_input_name = "pixel_values"
    input_modalities = "video"
    _supports_sdpa = True
    tasks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: SVFAPConfig) -> None:
        settings = config.settings(*self.tasks)
        config = copy.deepcopy(config)
        config.adopt(settings)
        super().__init__(config)
        model = build_model(settings)
        for tensor in (*model.parameters(), *model.buffers()):
            setattr(tensor, INITIALISED, not tensor.is_meta)
        # Both have one and the same registry of modules, parameters and buffers.
        for name in REGISTRIES:
            setattr(self, name, getattr(model, name))
        self.__dict__["_svfap"] = model  # not as a module within this one
        self.post_init()

    @property
    def svfap(self) -> Model:
        """The model as one of this package, with the same parameters, and the config that it was made with."""
        model: Model = self.__dict__["_svfap"]
        if model._modules is not self._modules:  # a replica that DataParallel has made
            model = copy.copy(model)
            for name in REGISTRIES:
                setattr(model, name, getattr(self, name))
        return model

    def channels_first(self, pixel_values: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, 3, T, H, W), in the dtype of the weights."""
        return pixel_values.transpose(1, 2).to(self.svfap.encoder.tubelet_embed.weight.dtype)

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Give tensors that no file has had their first values, as `svfap.create_model` does, and positions theirs."""
        tensors = self.state_dict(keep_vars=True)
        if missing := [name for name, tensor in tensors.items() if not getattr(tensor, INITIALISED, False)]:
            fresh = build_model(self.svfap.config).state_dict()
            for name in missing:
                tensors[name].copy_(fresh[name])
        fill_positions(self.svfap)


class SVFAPModel(SVFAPPreTrainedModel):
    """Features of clips: `AutoModel`."""

    tasks = ("features",)
    _keys_to_ignore_on_load_unexpected = [r"head\."]  # noqa: RUF012

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Encode clips.

        pixel_values: (B, T, 3, H, W) float, of `SVFAPVideoProcessor`. Returns `last_hidden_state`, the encoder's tokens
        (B, N, D), and `pooler_output` (B, D), `Perceiver.features`.
        """
        model = cast(Perceiver, self.svfap)
        tokens = model.encoder(self.channels_first(pixel_values))
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=model.pooled(tokens))


class SVFAPForVideoClassification(SVFAPPreTrainedModel):
    """Classes of clips, or values where the task is regression: `AutoModelForVideoClassification`."""

    tasks = ("classification", "regression")

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """The outputs of clips, and with labels the loss.

        pixel_values: (B, T, 3, H, W) float, of `SVFAPVideoProcessor`. labels: classes (B,), for the cross-entropy (-100: left
        out), or values (B, K), for the mean squared error; frame-level models have (B, T) or (B, T, K). Returns `logits`: what
        `Perceiver.forward` returns. Raises `ValueError` for labels of another shape.
        """
        logits = self.svfap.forward(self.channels_first(pixel_values))
        if labels is None:
            return ImageClassifierOutput(logits=logits)
        is_class = self.config.task == "classification"
        if labels.shape != (logits.shape[:-1] if is_class else logits.shape):
            raise ValueError(f"labels of shape {tuple(labels.shape)} for outputs of shape {tuple(logits.shape)}")
        if is_class:
            loss = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
        else:
            loss = F.mse_loss(logits.float(), labels.float())
        return ImageClassifierOutput(loss=loss, logits=logits)


@dataclass
class SVFAPForPreTrainingOutput(ModelOutput):
    """loss: Eq. 11. logits: (B, N_hidden, values of a tubelet), the prediction of hidden tubelets in ascending order."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class SVFAPForPreTraining(SVFAPPreTrainedModel):
    """The masked autoencoder: `AutoModelForPreTraining`."""

    tasks = ("pretraining",)

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> SVFAPForPreTrainingOutput:
        """Predict hidden tubelets from the others, and compare.

        pixel_values: (B, T, 3, H, W) float. bool_masked_pos: (B, N) bool, True where a tubelet is hidden, as `TubeMask.from_bool`
        takes it; default: random tubes that hide `mask_ratio` of the positions.
        """
        model, clip = cast(MaskedAutoencoder, self.svfap), pixel_values.transpose(1, 2)
        if bool_masked_pos is None:
            mask = tube_mask(len(clip), model.config).to(clip.device)
        else:
            mask = TubeMask.from_bool(bool_masked_pos, model.config)
        prediction = model.forward(self.channels_first(pixel_values), mask)

        def predicted(*_: Any) -> Tensor:
            return prediction

        return SVFAPForPreTrainingOutput(loss=model.loss(clip, mask, predicted), logits=prediction)
