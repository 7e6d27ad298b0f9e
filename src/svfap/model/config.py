"""The settings that describe a model; whether its sizes fit together is checked here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.formats import stamped, upgrade

CONFIG_FILE = "config.json"
# What transformers finds the classes of `svfap.huggingface` by; how clips are read is in `config.json` alone.
MODEL_TYPE, VIDEO_PROCESSOR = "svfap", "SVFAPVideoProcessor"
VIDEO_PROCESSOR_FILE = "video_preprocessor_config.json"
# Names in `config.json` that are transformers' own and say nothing about the model.
OF_TRANSFORMERS = (
    *("model_type", "architectures", "transformers_version", "dtype", "return_dict", "output_hidden_states"),
    *("output_attentions", "chunk_size_feed_forward", "is_encoder_decoder", "auto_map"),
)
TASKS = ("classification", "regression", "multitask", "pretraining", "features")
CHOICES = {
    "task": TASKS,
    "output_activation": ("none", "sigmoid", "tanh"),
    "temporal_downsample": ("conv", "avg", "max"),
    "target": ("pixels", "difference"),
    "frame_fit": ("squash", "centre"),
    "stem": ("linear", "conv"),
}
# Two encoders with equal weights give equal tokens for the same clips if these are equal too.
ENCODER_SETTINGS = (
    *("patch_size", "tubelet_size", "stem", "standardize_clips", "embed_dim", "num_heads", "mlp_ratio", "stage_depths"),
    *("num_bottleneck_tokens", "bottleneck_hidden_dim", "temporal_kernel_size"),
    *("temporal_pyramid", "temporal_downsample", "spatial_bottleneck", "pixel_mean", "pixel_std"),
)
HEAD_NAME = r"[A-Za-z][A-Za-z0-9_-]*"
# Settings of a head that say what its labels are: arguments of `svfap.data.manifest.read_manifest`.
OF_LABELS = ("task", "frame_level", "label_names", "dimensions", "invalid_marks", "label_range", "label_column")
# Of a model with one output, and of each `Head` of one with several.
OF_A_HEAD = ("task", "label_names", "frame_level", "output_activation", "output_scale", "output_offset")
# Names and types in face_crop.
FACE_CROP: dict[str, Any] = {"margin": (int, float), "align": bool, "border": str, "detector": str}
# Each is a multiple of the other.
MULTIPLES = {"img_size": "patch_size", "num_frames": "tubelet_size", "embed_dim": "num_heads"}
MULTIPLES |= {"decoder_embed_dim": "decoder_num_heads"}

MAX_SIZE, MAX_TOKENS, MAX_STAGES = 65_536, 100_000, 32  # beyond every use; a damaged file shall not take all memory
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def face_crop_of(crop: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelConfig.face_crop` of a model that is trained on clips of `svfap crop`. crop: what their `crop.json` says."""
    return {name: crop[name] for name in FACE_CROP if crop.get(name) is not None}


@dataclass(frozen=True)
class Head:
    """One of several outputs of a model; the fields have the meaning of those of `ModelConfig`.

    name: letters, digits, - and _, beginning with a letter. label_column: the column of a manifest that holds the classes.
    """

    name: str
    task: str
    label_names: tuple[str, ...]
    frame_level: bool = False
    output_activation: str = "none"
    output_scale: tuple[float, ...] = ()
    output_offset: tuple[float, ...] = ()
    label_column: str = "label"

    def __post_init__(self) -> None:
        fits = isinstance(self.name, str) and re.fullmatch(HEAD_NAME, self.name) is not None
        _require(fits, f"heads: {self.name!r} must be a name of letters, digits, - and _, beginning with a letter")
        _require(not self.name.startswith(("prob_", "pred_")), f"heads: {self.name!r} begins as columns of outputs do")
        _require(self.task in ("classification", "regression"), f"heads: {self.name}: task={self.task!r} is of no head")
        for name in ("label_names", "output_scale", "output_offset"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(bool(self.label_names), f"heads: {self.name}: needs label_names")
        _require(isinstance(self.label_column, str), f"heads: {self.name}: label_column must be text")


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model again; saved as `config.json` beside its weights.

    The encoder has `len(stage_depths)` stages. The first holds ordinary Transformer blocks; every later one down-samples
    time by `temporal_kernel_size` and works through `num_bottleneck_tokens` tokens per time step. The variants of Table 3
    omit the down-sampling (`temporal_pyramid`) or the bottleneck (`spatial_bottleneck`; the stage then holds ordinary
    blocks). Frames that are not square are squashed, as published, or cut to their central square (`frame_fit`). With one
    stage the encoder is a plain video ViT. Dimensions are channels, sizes are pixels, `num_frames` and `sampling_stride` are
    frames of the video, `frame_rate` to the second. Outputs are the head's values × `output_scale` + `output_offset`, one
    of each per output.

    With `standardize_clips` the encoder first standardises each clip, per channel, over the pixels that it sees. Without it
    (as published), how bright a clip is outweighs all else in the tokens of an untrained encoder, and small ones do not get
    over it. It adds no parameters.

    `stem` is how tubelets become tokens: "linear", as published, or "conv", convolutions of stride 2 (Xiao et al., NeurIPS
    2021), which learn faster from few videos. With `patch_size` = `img_size` and "conv" the encoder is a convolutional network:
    a frame is one token. Masked autoencoding is for the former, as hidden pixels must not be read.

    `target` is what pre-training predicts of a hidden tubelet: its "pixels", standardised, as in the paper; or the
    "difference" of each frame to the one before, as in MAE-DFER (Sun et al., ACM Multimedia 2023).

    A model of task "multitask" has several outputs, its `heads`; `of_head` is the config of the model with one of them alone. Its
    `num_outputs` is the sum of theirs, in their order.

    `reads` says in words what the outputs are about, such as "facial movement", and `meanings` what each of them is; what
    `svfap predict` writes says it too.

    `frame_rate` and `face_crop` are the contract of a trained model: pictures per second of its training videos (None: not
    known), and how faces were cut out of them, with the keys margin, align, border and detector as far as they are known
    (see `svfap.faces.config.FaceCropConfig`). Videos that the model is applied to are sampled and cropped like that.

    Raises `UserError` naming the settings that do not fit together.
    """

    preset: str = "custom"
    task: str = "features"
    # The clip and how it is cut into tubelets (Sec. III-A).
    img_size: int = 160
    num_frames: int = 16
    patch_size: int = 16
    tubelet_size: int = 2
    stem: str = "linear"
    standardize_clips: bool = False
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
    target: str = "pixels"
    decoder_embed_dim: int = 384
    decoder_num_heads: int = 6
    decoder_depth: int = 4
    # The task's head (Fig. 1b).
    num_outputs: int = 0
    output_activation: str = "none"
    output_scale: tuple[float, ...] = ()
    output_offset: tuple[float, ...] = ()
    frame_level: bool = False
    heads: tuple[Head, ...] = ()
    # What a user of the weights needs.
    label_names: tuple[str, ...] = ()
    reads: str = "affect"
    meanings: tuple[str, ...] = ()
    sampling_stride: int = 4
    frame_rate: float | None = None
    face_crop: dict[str, Any] = field(default_factory=dict)
    frame_fit: str = "squash"
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("stage_depths", "num_bottleneck_tokens"):
            value = getattr(self, name)
            numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
            _require(
                all(isinstance(n, int) for n in numbers), f"{name}={value!r} must be whole numbers, one for each stage"
            )
            object.__setattr__(self, name, numbers)
        for name in ("output_scale", "output_offset", "label_names", "meanings", "pixel_mean", "pixel_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        heads = tuple(Head(**head) if isinstance(head, dict) else head for head in self.heads)
        object.__setattr__(self, "heads", heads)
        num_later, tokens = len(self.stage_depths) - 1, self.num_bottleneck_tokens
        if len(tokens) == 1 or num_later == 0:  # one number serves every later stage
            object.__setattr__(self, "num_bottleneck_tokens", tokens[:1] * num_later)
        self._check_numbers()
        self._check_outputs()
        self._check_heads()
        self._check_contract()

    def _check_numbers(self) -> None:
        for name in (
            *("img_size", "num_frames", "patch_size", "tubelet_size", "embed_dim", "num_heads", "temporal_kernel_size"),
            *("bottleneck_hidden_dim", "decoder_embed_dim", "decoder_num_heads", "decoder_depth", "sampling_stride"),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(whole, f"{name}={value!r} must be a whole number")
            _require(1 <= value <= MAX_SIZE, f"{name}={value} must be at least 1 and at most {MAX_SIZE}")
        fits = isinstance(self.mlp_ratio, int | float) and 0 < self.mlp_ratio <= 100
        _require(fits, f"mlp_ratio={self.mlp_ratio!r} must be above 0 and at most 100")
        for name in ("drop_path_rate", "mask_ratio"):
            _require(0 <= getattr(self, name) < 1, f"{name}={getattr(self, name)} is not in [0, 1)")
        for name, part in MULTIPLES.items():
            value, divisor = getattr(self, name), getattr(self, part)
            _require(value % divisor == 0, f"{name}={value} is not a multiple of {part}={divisor}")
        depths, bottleneck, tokens = self.stage_depths, self.num_bottleneck_tokens, self.num_tokens
        _require(len(depths) >= 1, "stage_depths is empty; give the number of blocks of each stage")
        _require(len(depths) <= MAX_STAGES, f"stage_depths has {len(depths)} stages; at most {MAX_STAGES} are possible")
        _require(min(depths) >= 1, f"stage_depths={depths}: every stage needs a block")
        num_later = len(depths) - 1
        _require(
            len(bottleneck) == num_later,
            f"num_bottleneck_tokens={bottleneck} must have one number for each of the {num_later} stages after the first "
            f"(stage_depths={depths})",
        )
        _require(all(1 <= n <= MAX_SIZE for n in bottleneck), "num_bottleneck_tokens must be at least 1")
        _require(sum(depths) <= MAX_SIZE, f"stage_depths={depths}: more than {MAX_SIZE} blocks")
        _require(tokens <= MAX_TOKENS, f"{tokens} tokens of a clip: at most {MAX_TOKENS} are possible")
        shrinkage = self.time_shrinkage**num_later
        _require(
            self.num_time_steps % shrinkage == 0,
            f"{self.num_time_steps} time steps (num_frames={self.num_frames} / tubelet_size={self.tubelet_size}) cannot be "
            f"divided by temporal_kernel_size={self.temporal_kernel_size} in each of {num_later} stages: "
            f"use a num_frames that is a multiple of {self.tubelet_size * shrinkage}",
        )

    def _check_outputs(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"{name}={value!r} is none of {', '.join(choices)}")
        if self.stem == "conv":
            power = self.patch_size & (self.patch_size - 1) == 0 and self.patch_size > 1
            _require(
                power, f"stem='conv' halves patches to a pixel: patch_size={self.patch_size} must be a power of two"
            )
            _require(self.task != "pretraining", "stem='conv' reads hidden pixels; pre-training needs stem='linear'")
        number, names, scales = self.num_outputs, self.label_names, self.output_scale
        for name in ("output_scale", "output_offset"):
            values = getattr(self, name)
            _require(not values or self.task == "regression", f"{name} is for regression")
            _require(len(values) in (0, number), f"{len(values)} numbers in {name} for {number} outputs")
        _require(bool(scales) == bool(self.output_offset), "output_scale and output_offset go together")
        _require(all(scale > 0 for scale in scales), f"output_scale={scales} must be above 0")
        _require(
            self.output_activation == "none" or self.task == "regression",
            f"output_activation={self.output_activation!r} is for regression; the outputs of classification are logits",
        )
        _require(number >= 0, f"num_outputs={number} must be at least 0")
        if self.task in ("classification", "regression"):
            _require(number >= 1, f"task={self.task!r} needs num_outputs of at least 1")
            _require(len(names) in (0, number), f"{len(names)} label_names for num_outputs={number}")
        _require(number <= MAX_SIZE, f"num_outputs={number} must be at most {MAX_SIZE}")
        for name in ("label_names", "meanings", "reads"):
            values = getattr(self, name)
            texts = values if name != "reads" else (values,)
            _require(all(isinstance(text, str) for text in texts), f"{name}={values!r} must be text")
        _require(len(self.meanings) in (0, len(names)), f"{len(self.meanings)} meanings for {len(names)} label_names")
        for name in ("pixel_mean", "pixel_std"):
            values = getattr(self, name)
            numbers = len(values) == 3 and all(isinstance(value, int | float) for value in values)
            _require(numbers, f"{name}={values!r} must be three numbers")
        _require(isinstance(self.provenance, dict), "provenance must be a mapping")
        _require(len(set(names)) == len(names), f"label_names: a name occurs twice in {', '.join(names)}")

    def _check_heads(self) -> None:
        names, several = [head.name for head in self.heads], self.task == "multitask"
        _require(bool(names) == several, f"heads are of task='multitask', not {self.task!r}, and it needs some")
        _require(len(set(names)) == len(names), f"heads: a name occurs twice in {', '.join(names)}")
        if not several:
            return
        number = sum(len(head.label_names) for head in self.heads)
        _require(self.num_outputs == number, f"num_outputs={self.num_outputs}, and the heads have {number}")
        for name in ("label_names", "meanings", "frame_level"):
            _require(not getattr(self, name), f"{name}: each of the heads has its own")
        for name in names:
            try:
                self.of_head(name)
            except UserError as error:
                raise UserError(f"heads: {name}: {error}") from None

    def of_head(self, name: str) -> ModelConfig:
        """The config of the model with one head alone. Raises `UserError` for a name that no head has."""
        head = next((each for each in self.heads if each.name == name), None)
        if head is None:
            known = ", ".join(each.name for each in self.heads) or "none"
            raise UserError(f"head={name}: the model has no such head; it has {known}")
        settings: dict[str, Any] = {each: getattr(head, each) for each in OF_A_HEAD}
        return replace(self, heads=(), num_outputs=len(head.label_names), **settings)

    @property
    def outputs(self) -> dict[str, ModelConfig]:
        """The config of each head by its name; of a model with one output its own, by the name ''."""
        return {head.name: self.of_head(head.name) for head in self.heads} or {"": self}

    def _check_contract(self) -> None:
        rate, crop = self.frame_rate, self.face_crop
        fits = rate is None or (isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf)
        _require(fits, f"frame_rate={rate!r} must be pictures per second, above 0")
        _require(isinstance(crop, dict), f"face_crop={crop!r} must be names with values")
        for name, value in crop.items():
            _require(name in FACE_CROP, f"face_crop: {name!r} is none of {', '.join(FACE_CROP)}")
            fits = isinstance(value, FACE_CROP[name]) and isinstance(value, bool) == (name == "align")
            _require(fits, f"face_crop: {name}={value!r} is of the wrong type")

    @property
    def span(self) -> int:
        """Frames from the first to the last of a clip, both included."""
        return (self.num_frames - 1) * self.sampling_stride + 1

    @property
    def contract(self) -> dict[str, str]:
        """`frame_rate` and `face_crop` as text for people."""
        rate = self.frame_rate
        unknown = ("any", "each frame by itself") if self.span == 1 else ("not known", "not known")
        crop = (f"{name} {self.face_crop[name]}".lower() for name in FACE_CROP if name in self.face_crop)
        return {
            "frames a second in training": unknown[0] if rate is None else f"{rate:g}",
            "seconds of a clip": unknown[1] if rate is None else f"{self.span / rate:.2f}",
            "face crops of training": ", ".join(crop) or "not known",
        }

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
    def from_dict(cls, settings: Any, file: object) -> ModelConfig:
        """The config of the content of a `config.json` of this or an earlier version. Raises `UserError` naming `file`."""
        kind = settings.get("model_type", MODEL_TYPE) if isinstance(settings, dict) else MODEL_TYPE
        if kind != MODEL_TYPE:
            raise UserError(f"{file}: describes a model of the type {kind!r} of transformers, not one of svfap")
        settings = upgrade("model config", settings, file, (*cls.field_names(), *OF_TRANSFORMERS))
        try:
            return cls(**{name: value for name, value in settings.items() if name not in OF_TRANSFORMERS})
        except TypeError as error:  # a number where there should be a list, and the like
            raise UserError(f"{file}: not a model config ({error})") from None
        except UserError as error:
            raise UserError(f"{file}: {error}") from None

    @classmethod
    def read(cls, file: Path) -> ModelConfig:
        """Read a `config.json`. Raises `UserError` naming it."""
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            return cls.from_dict(settings, file)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: not a model config ({error})") from None

    def write(self, folder: Path) -> None:
        """Write `config.json` into a folder, beside the weights, and the file by which transformers reads videos for it."""
        content = {**stamped("model config", asdict(self)), "model_type": MODEL_TYPE}
        write_atomically(folder / CONFIG_FILE, json.dumps(content, indent=2, sort_keys=True))
        write_processor(folder)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of all fields, in order."""
        return tuple(f.name for f in fields(cls))


def write_processor(folder: Path) -> None:
    """Write the file by which transformers finds the class that reads videos for the model in a folder."""
    content = json.dumps({"video_processor_type": VIDEO_PROCESSOR}, indent=2)
    write_atomically(folder / VIDEO_PROCESSOR_FILE, content + "\n")


def _require(fits: bool, message: str) -> None:
    if not fits:
        raise UserError(f"model config: {message}")
