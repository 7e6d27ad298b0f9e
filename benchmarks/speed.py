"""Speed of svfap_base, compared with VideoMAE-base and with an unoptimised implementation of the same model.

Times the forward pass and the training step of fine-tuning and pre-training in fp32 and bf16; the models are measured
alternately in one process. Prints Markdown. The rows of VideoMAE in transformers need `pip install -e '.[bench]'`; no weights
are downloaded.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    ADAMW_TRAFFIC,
    add_machine_arguments,
    machine,
    matrix_rate,
    memory_rate,
    ratio,
    table,
    time_alternating,
)
from plain import plain
from torch import Tensor, nn

from svfap.data.augment import normalize
from svfap.device import PRECISIONS, pick_device
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.complexity import complexity
from svfap.model.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import TubeMask, tube_mask
from svfap.model.presets import model_config
from svfap.train.optim import build_optimizer

NUM_CLASSES = 7
TASKS = {"classification": "Fine-tuning", "pretraining": "Pre-training, 90% masked"}
# Largest relative error of the unoptimised model's outputs, in norm.
LARGEST_ERROR = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 1e-2}
COLUMNS = ("ms per clip", "÷ svfap", "÷ floor", "clips/s")


@dataclass
class Candidate:
    """A model to measure.

    multiply_adds: of one clip, in total. embed_multiply_adds: those of the tubelet embedding.
    """

    name: str
    config: ModelConfig
    model: nn.Module
    loss: Callable[[], Tensor]
    multiply_adds: int
    embed_multiply_adds: int

    def __post_init__(self) -> None:
        # All models have the same optimiser. Its learning rate is zero, which does not change the cost of a step.
        self.optimizer = build_optimizer([{"params": list(self.model.parameters()), "lr_scale": 1.0}])
        self.num_parameters = sum(p.numel() for p in self.model.parameters())

    @torch.no_grad()
    def forward(self) -> None:
        self.loss()

    def step(self, autocast: Callable[[], torch.autocast]) -> None:
        with autocast():
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_machine_arguments(parser)
    parser.add_argument("--batch", type=int, help="clips per step; default: 2, on a GPU 32")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median is reported")
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile every model")
    options = parser.parse_args()
    device = pick_device(options.device)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in full fp32, too
    batch = options.batch or (32 if device.type == "cuda" else 2)
    rounds = 1 if options.quick else options.repeats
    print("\n".join(machine(device)), flush=True)
    size = 512 if options.quick else 8192 if device.type == "cuda" else 4096
    matrix = {p: matrix_rate(p, device, size) for p in options.precision}
    memory = memory_rate(device, 2**24 if options.quick else 2**30)
    print(f"- batch {batch}, rounds: {rounds}, {'compiled' if options.compile else 'not compiled'}")
    rates = ", ".join(f"{p} {rate / 1e9:.0f}" for p, rate in matrix.items())
    print(f"- measured limits: {rates} G multiply-adds/s ({size} cubed), memory {memory / 1e9:.1f} GB/s (copy)")
    if importlib.util.find_spec("transformers") is None:
        print("- transformers is not installed: no VideoMAE rows")
    for task, title in TASKS.items():
        candidates = make_candidates(task, options.quick, batch, device)
        check_agreement(candidates[0].model, candidates[1].model, options.precision, batch, device)
        if options.compile:
            torch._dynamo.config.recompile_limit = 100  # five models, with and without gradient, in each precision
            for candidate in candidates:
                candidate.model.compile()
        for precision in options.precision:
            print(f"\n### {title}, {precision}\n", flush=True)
            print(measure(candidates, precision, rounds, batch, device, matrix[precision], memory), flush=True)
        del candidates
        gc.collect()


def make_candidates(task: str, quick: bool, batch: int, device: torch.device) -> list[Candidate]:
    """The models to compare. The first is the reference of the ratios, the second its unoptimised implementation."""
    ours, vit, sizes = ("svfap_tiny", "vit_tiny", (64, 96)) if quick else ("svfap_base", "videomae_base", (160, 224))
    kwargs = {} if task == "pretraining" else {"num_outputs": NUM_CLASSES}
    config = model_config(ours, task, img_size=sizes[0], **kwargs)
    model = build_model(config).to(device)
    candidates = [
        package_candidate(ours, config, model, batch, device),
        package_candidate(f"{ours}, unoptimised", config, plain(model), batch, device, all_tubelets=True),
    ]
    config = model_config(vit, task, img_size=sizes[0], **kwargs)
    candidates.append(package_candidate(f"{vit}, this package", config, build_model(config).to(device), batch, device))
    if importlib.util.find_spec("transformers"):
        for size in sizes:
            config = model_config(vit, task, img_size=size, **kwargs)
            candidates.append(transformers_candidate("VideoMAE, transformers", config, batch, device))
    return candidates


def package_candidate(
    name: str, config: ModelConfig, model: Model, batch: int, device: torch.device, all_tubelets: bool = False
) -> Candidate:
    clip, mask = random_clip(config, batch, device), random_mask(config, batch, device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)

    def loss() -> Tensor:
        if isinstance(model, MaskedAutoencoder):
            return model.loss(clip, mask)
        return F.cross_entropy(model(clip).float(), label)

    return Candidate(name, config, model, loss, *count_multiply_adds(config, all_tubelets))


def transformers_candidate(name: str, config: ModelConfig, batch: int, device: torch.device) -> Candidate:
    """VideoMAE in transformers with the sizes of a preset of this package, hence with the same multiply-adds."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

    pretraining = config.task == "pretraining"
    sizes: dict[str, Any] = dict(
        image_size=config.img_size,
        patch_size=config.patch_size,
        num_frames=config.num_frames,
        tubelet_size=config.tubelet_size,
        hidden_size=config.embed_dim,
        num_hidden_layers=config.stage_depths[0],
        num_attention_heads=config.num_heads,
        intermediate_size=int(config.embed_dim * config.mlp_ratio),
        decoder_hidden_size=config.decoder_embed_dim,
        decoder_num_attention_heads=config.decoder_num_heads,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio),
        use_mean_pooling=not pretraining,
        num_labels=NUM_CLASSES,
    )
    videomae_config = VideoMAEConfig(**sizes)
    model: nn.Module = (VideoMAEForPreTraining if pretraining else VideoMAEForVideoClassification)(videomae_config)
    model.to(device).train()
    clip = random_clip(config, batch, device).transpose(1, 2).contiguous()
    masked = random_mask(config, batch, device).to_bool()
    label = torch.zeros(batch, dtype=torch.int64, device=device)

    def loss() -> Tensor:
        if pretraining:
            return model(clip, bool_masked_pos=masked).loss
        return F.cross_entropy(model(clip).logits.float(), label)

    candidate = Candidate(name, config, model, loss, *count_multiply_adds(config, all_tubelets=True))
    assert candidate.num_parameters == complexity(config).parameters, (
        "the architectures differ, so the multiply-adds do not apply"
    )
    return candidate


def random_clip(config: ModelConfig, batch: int, device: torch.device) -> Tensor:
    """A batch of normalised clips in the memory layout of the data loader."""
    shape = (batch, config.num_frames, config.img_size, config.img_size, 3)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return normalize(pixels.to(device), IMAGENET_MEAN, IMAGENET_STD)


def random_mask(config: ModelConfig, batch: int, device: torch.device) -> TubeMask:
    return tube_mask(batch, config, generator=torch.Generator().manual_seed(0)).to(device)


def count_multiply_adds(config: ModelConfig, all_tubelets: bool) -> tuple[int, int]:
    """Multiply-adds of the forward pass of one clip: the total, and those of the tubelet embedding."""
    cost = complexity(config)
    if all_tubelets:
        return cost.multiply_adds, config.num_tokens * config.tubelet_dim * config.embed_dim
    return cost.multiply_adds_done, cost.by_part["tubelet embedding"]


def check_agreement(ours: nn.Module, other: nn.Module, precisions: list[str], batch: int, device: torch.device) -> None:
    """Assert that outputs, targets and gradient norms of both models agree."""
    assert isinstance(ours, Model)
    clip = random_clip(ours.config, batch, device)
    inputs = (clip, random_mask(ours.config, batch, device)) if isinstance(ours, MaskedAutoencoder) else (clip,)
    for precision in precisions:
        outputs = []
        for model in (ours, other):
            with autocasting(precision, device):
                output = model(*inputs).float()
            output.square().mean().backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            outputs.append([output.detach(), norm])
            if isinstance(model, MaskedAutoencoder):
                outputs[-1].append(model.targets(*inputs))
            model.zero_grad()
        for expected, found in zip(*outputs, strict=True):
            error = float((found - expected).norm() / expected.norm())
            assert error < LARGEST_ERROR[precision], (
                f"{precision}: relative error of the unoptimised model is {error:.1e}"
            )


def autocasting(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def measure(
    candidates: list[Candidate],
    precision: str,
    rounds: int,
    batch: int,
    device: torch.device,
    matrix: float,
    memory: float,
) -> str:
    """Measure forward pass and step of all models alternately; returns a Markdown table."""
    autocast = partial(autocasting, precision, device)

    def forward(candidate: Candidate) -> None:
        with autocast():
            candidate.forward()

    keys = [f"{c.name} {c.config.img_size}" for c in candidates]
    forwards = time_alternating({k: partial(forward, c) for k, c in zip(keys, candidates, strict=True)}, rounds, device)
    steps = time_alternating(
        {k: partial(c.step, autocast) for k, c in zip(keys, candidates, strict=True)}, rounds, device
    )
    rows = []
    for key, c in zip(keys, candidates, strict=True):
        row = [c.name, str(c.config.img_size), f"{c.multiply_adds / 1e9:.3g}"]
        # The backward pass costs twice the forward pass, less the gradient of the pixels, which is not computed. Then the
        # optimiser updates the parameters.
        backward = 2 * c.multiply_adds - c.embed_multiply_adds
        update_s = ADAMW_TRAFFIC * c.num_parameters / memory
        for taken, floor_s in (
            (forwards, batch * c.multiply_adds / matrix),
            (steps, batch * (c.multiply_adds + backward) / matrix + update_s),
        ):
            median = float(np.median(taken[key]))
            against = "1" if c is candidates[0] else ratio(taken[key], taken[keys[0]])
            row += [f"{1e3 * median / batch:.1f}", against, f"{median / floor_s:.2f}", f"{batch / median:.3g}"]
        rows.append(row)
    passes = [f"{which}: {column}" for which in ("forward", "step") for column in COLUMNS]
    return table(("model", "px", "G multiply-adds", *passes), rows)


if __name__ == "__main__":
    main()
