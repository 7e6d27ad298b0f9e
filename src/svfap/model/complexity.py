"""What a model costs: parameters, multiply-adds by part, tokens, memory. Reproduces the costs in Tables 2, 3 and 5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.config import ModelConfig
from svfap.model.masking import tube_mask


@dataclass(frozen=True)
class Complexity:
    """Counts for one clip.

    multiply_adds: as the paper counts them, with every tubelet embedded.
    multiply_adds_done: of this implementation, which embeds only visible tubelets.
    by_part, tokens: part -> multiply-adds done, and tokens that it processes.
    activation_bytes: stored for the backward pass of one clip, float32; None if not measured.
    """

    parameters: int
    multiply_adds: int
    multiply_adds_done: int
    by_part: dict[str, int]
    tokens: dict[str, str]
    activation_bytes: int | None

    @property
    def weight_bytes(self) -> int:
        """Of float32 parameters."""
        return 4 * self.parameters

    @property
    def train_state_bytes(self) -> int:
        """Of float32 parameters, their gradients and AdamW's two moments."""
        return 16 * self.parameters


def complexity(config: ModelConfig, measure_activations: bool = False) -> Complexity:
    """Count a model's costs without weights or data; `measure_activations` also runs a clip of noise on the CPU."""
    with torch.device("meta"):
        model = build_model(config)
        clip = torch.empty(1, 3, config.num_frames, config.img_size, config.img_size)
        mask = tube_mask(1, config)
    pretraining = config.task == "pretraining"
    num_masked = mask.hidden.shape[1] if pretraining else 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip, mask) if pretraining else model(clip)
    done = counter.get_total_flops() // 2  # a multiply-add is two operations
    return Complexity(
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=done + num_masked * config.tubelet_dim * config.embed_dim,
        multiply_adds_done=done,
        by_part=_by_part(counter, type(model).__name__, config),
        tokens=_tokens(config, num_masked),
        activation_bytes=_activations(config) if measure_activations else None,
    )


def _by_part(counter: FlopCounterMode, model: str, config: ModelConfig) -> dict[str, int]:
    counts = counter.get_flop_counts()
    parts = {"tubelet embedding": "encoder.tubelet_embed"}
    parts |= {f"stage {i + 1}": f"encoder.stages.{i}" for i in range(len(config.stage_depths))}
    parts |= {"to decoder": "encoder_to_decoder", "decoder": "decoder", "head": "head"}
    names = {part: f"{model}.{module}" for part, module in parts.items()}
    return {part: sum(counts[name].values()) // 2 for part, name in names.items() if name in counts}


def _tokens(config: ModelConfig, num_masked: int) -> dict[str, str]:
    visible = (config.num_tokens - num_masked) // config.num_time_steps
    tokens = {"tubelet embedding": f"{config.num_time_steps}×{visible}"}
    for i, steps in enumerate(config.stage_time_steps):
        squeezed = i and config.spatial_bottleneck
        bottleneck = f", bottleneck {steps}×{config.num_bottleneck_tokens[i - 1]}" if squeezed else ""
        tokens[f"stage {i + 1}"] = f"{steps}×{visible}{bottleneck}"
    if config.task == "pretraining":
        tokens["decoder"] = f"{config.num_time_steps}×{config.num_positions}"
    return tokens


def _activations(config: ModelConfig) -> int:
    """Bytes that autograd stores for one clip, without parameters and buffers."""
    model: Model = build_model(replace(config, drop_path_rate=0.0)).train()
    known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    stored: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            stored.setdefault(storage._cdata, storage)
        return tensor

    clip = torch.randn(1, 3, config.num_frames, config.img_size, config.img_size)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(clip, tube_mask(1, config)) if config.task == "pretraining" else model(clip)
    return sum(storage.nbytes() for storage in stored.values())
