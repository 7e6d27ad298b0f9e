"""The settings that describe a model; whether its sizes fit together is checked here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.formats import stamped, upgrade

CONFIG_FILE = "config.json"
TASKS = ("classification", "regression", "pretraining", "features")
ACTIVATIONS = ("none", "sigmoid", "tanh")
DOWNSAMPLINGS = ("conv", "avg", "max")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model again; saved as `config.json` beside its weights.

    The encoder has `len(stage_depths)` stages. The first holds ordinary Transformer blocks; every later one down-samples
    time by `temporal_kernel_size` and works through `num_bottleneck_tokens` tokens per time step. The variants of Table 3
    omit the down-sampling (`temporal_pyramid`) or the bottleneck (`spatial_bottleneck`; the stage then holds ordinary
    blocks). With one stage the encoder is a plain video ViT. Dimensions are channels, sizes are pixels, `num_frames` and
    `sampling_stride` are frames of the video. Outputs are the head's values × `output_scale` + `output_offset`, one of
    each per output.

    Raises `UserError` naming the settings that do not fit together.
    """

    preset: str = "custom"
    task: str = "features"
    # The clip and how it is cut into tubelets (Sec. III-A).
    img_size: int = 160
    num_frames: int = 16
    patch_size: int = 16
    tubelet_size: int = 2
    # TPSBT, the encoder (Sec. III-B, Fig. 2).
    embed_dim: int = 512
    num_heads: int = 8
    mlp_ratio: float = 4.0
    stage_depths: tuple[int, ...] = (12, 6, 3)
    num_bottleneck_tokens: tuple[int, ...] = (8,)
    bottleneck_hidden_dim: int = 128
    temporal_kernel_size: int = 2
    temporal_pyramid: bool = True
    temporal_downsample: str = "conv"
    spatial_bottleneck: bool = True
    drop_path_rate: float = 0.0
    fuse_stages: bool = False
    # Masked autoencoding (Fig. 1a).
    mask_ratio: float = 0.9
    decoder_embed_dim: int = 384
    decoder_num_heads: int = 6
    decoder_depth: int = 4
    # The task's head (Fig. 1b).
    num_outputs: int = 0
    output_activation: str = "none"
    output_scale: tuple[float, ...] = ()
    output_offset: tuple[float, ...] = ()
    frame_level: bool = False
    # What a user of the weights needs.
    label_names: tuple[str, ...] = ()
    sampling_stride: int = 4
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in ("stage_depths", "num_bottleneck_tokens"):
            value = getattr(self, word)
            if not all(isinstance(n, int) for n in (value if isinstance(value, list | tuple) else [value])):
                raise UserError(f"model config: {word}={value!r} must be whole numbers, one for each stage")
        if isinstance(self.stage_depths, int):
            object.__setattr__(self, "stage_depths", (self.stage_depths,))
        later_stages = len(self.stage_depths) - 1
        tokens = self.num_bottleneck_tokens
        tokens = (tokens,) if isinstance(tokens, int) else tuple(tokens)
        if len(tokens) == 1:
            tokens *= later_stages  # one number serves every later stage
        normalised = {
            "stage_depths": tuple(self.stage_depths),
            "num_bottleneck_tokens": tokens if later_stages else (),
            "output_scale": tuple(self.output_scale),
            "output_offset": tuple(self.output_offset),
            "label_names": tuple(self.label_names),
            "pixel_mean": tuple(self.pixel_mean),
            "pixel_std": tuple(self.pixel_std),
        }
        for name, value in normalised.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        def require(fits: bool, message: str) -> None:
            if not fits:
                raise UserError(f"model config: {message}")

        require(self.task in TASKS, f"task={self.task!r} is none of {', '.join(TASKS)}")
        require(
            self.output_activation in ACTIVATIONS,
            f"output_activation={self.output_activation!r} is none of {', '.join(ACTIVATIONS)}",
        )
        require(
            self.temporal_downsample in DOWNSAMPLINGS,
            f"temporal_downsample={self.temporal_downsample!r} is none of {', '.join(DOWNSAMPLINGS)}",
        )
        for word in ("output_scale", "output_offset"):
            values = getattr(self, word)
            require(not values or self.task == "regression", f"{word} is for regression")
            require(
                len(values) in (0, self.num_outputs), f"{len(values)} numbers in {word} for {self.num_outputs} outputs"
            )
        require(bool(self.output_scale) == bool(self.output_offset), "output_scale and output_offset go together")
        require(all(scale > 0 for scale in self.output_scale), f"output_scale={self.output_scale} must be above 0")
        require(
            self.output_activation == "none" or self.task == "regression",
            f"output_activation={self.output_activation!r} is for regression; the outputs of classification are logits",
        )
        for word in (
            *("img_size", "num_frames", "patch_size", "tubelet_size", "embed_dim", "num_heads", "temporal_kernel_size"),
            *("bottleneck_hidden_dim", "decoder_embed_dim", "decoder_num_heads", "decoder_depth", "sampling_stride"),
        ):
            whole_number = isinstance(getattr(self, word), int) and not isinstance(getattr(self, word), bool)
            require(whole_number, f"{word}={getattr(self, word)!r} must be a whole number")
            require(getattr(self, word) >= 1, f"{word}={getattr(self, word)} must be at least 1")
        require(len(self.stage_depths) >= 1, "stage_depths is empty; give the number of blocks of each stage")
        require(min(self.stage_depths) >= 1, f"stage_depths={self.stage_depths}: every stage needs a block")
        require(
            len(self.num_bottleneck_tokens) == len(self.stage_depths) - 1,
            f"num_bottleneck_tokens={self.num_bottleneck_tokens} must have one number for each of the "
            f"{len(self.stage_depths) - 1} stages after the first (stage_depths={self.stage_depths})",
        )
        require(all(n >= 1 for n in self.num_bottleneck_tokens), "num_bottleneck_tokens must be at least 1")
        for whole, part in (
            *(("img_size", "patch_size"), ("num_frames", "tubelet_size"), ("embed_dim", "num_heads")),
            ("decoder_embed_dim", "decoder_num_heads"),
        ):
            a, b = getattr(self, whole), getattr(self, part)
            require(a % b == 0, f"{whole}={a} is not a multiple of {part}={b}")
        shrink = self.time_shrinkage ** (len(self.stage_depths) - 1)
        require(
            self.num_time_steps % shrink == 0,
            f"{self.num_time_steps} time steps (num_frames={self.num_frames} / tubelet_size={self.tubelet_size}) cannot be "
            f"divided by temporal_kernel_size={self.temporal_kernel_size} in each of {len(self.stage_depths) - 1} stages: "
            f"use a num_frames that is a multiple of {self.tubelet_size * shrink}",
        )
        require(0.0 <= self.drop_path_rate < 1.0, f"drop_path_rate={self.drop_path_rate} is not in [0, 1)")
        require(0.0 <= self.mask_ratio < 1.0, f"mask_ratio={self.mask_ratio} is not in [0, 1)")
        require(self.num_outputs >= 0, f"num_outputs={self.num_outputs} must be at least 0")
        if self.task in ("classification", "regression"):
            require(self.num_outputs >= 1, f"task={self.task!r} needs num_outputs of at least 1")
            require(
                len(self.label_names) in (0, self.num_outputs),
                f"{len(self.label_names)} label_names for num_outputs={self.num_outputs}",
            )
        names = self.label_names
        require(len(set(names)) == len(names), f"label_names: a name occurs twice in {', '.join(names)}")

    @property
    def num_time_steps(self) -> int:
        """T / tubelet_size: time steps of the first stage."""
        return self.num_frames // self.tubelet_size

    @property
    def time_shrinkage(self) -> int:
        """Factor by which each later stage down-samples time."""
        return self.temporal_kernel_size if self.temporal_pyramid else 1

    @property
    def stage_time_steps(self) -> tuple[int, ...]:
        """Time steps of each stage."""
        return tuple(self.num_time_steps // self.time_shrinkage**i for i in range(len(self.stage_depths)))

    @property
    def grid_size(self) -> int:
        """Tubelets along one side of a frame."""
        return self.img_size // self.patch_size

    @property
    def num_positions(self) -> int:
        """S: spatial positions of one time step."""
        return self.grid_size**2

    @property
    def num_tokens(self) -> int:
        """N: tubelets of a clip."""
        return self.num_time_steps * self.num_positions

    @property
    def tubelet_dim(self) -> int:
        """Values of one RGB tubelet."""
        return self.tubelet_size * self.patch_size**2 * 3

    def num_masked_positions(self, ratio: float | None = None) -> int:
        """Positions that `ratio` (default: `mask_ratio`) hides in each time step, rounded down."""
        ratio = self.mask_ratio if ratio is None else ratio
        return math.floor(ratio * self.num_positions + 1e-9)  # 0.29 * 100 is 28.999… in binary

    @classmethod
    def from_words(cls, words: Any, file: object) -> ModelConfig:
        """What a `config.json` of this or an earlier version says. Raises `UserError` naming `file`."""
        words = upgrade("model config", words, file, cls.words())
        try:
            return cls(**words)
        except TypeError as error:  # a number where there should be a list, and the like
            raise UserError(f"{file}: not a model config ({error})") from None

    @classmethod
    def read(cls, file: Path) -> ModelConfig:
        """Read a `config.json`. Raises `UserError` naming it."""
        try:
            words = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: not a model config ({error})") from None
        return cls.from_words(words, file)

    def write(self, folder: Path) -> None:
        """Write `config.json` into a folder, beside the weights."""
        content = json.dumps(stamped("model config", asdict(self)), indent=2, sort_keys=True)
        write_atomically(folder / CONFIG_FILE, content)

    @classmethod
    def words(cls) -> tuple[str, ...]:
        """Names of all fields, in order."""
        return tuple(f.name for f in fields(cls))
