"""The config of a model for transformers: the fields of `ModelConfig`, in the same `config.json`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig

from svfap.errors import UserError
from svfap.formats import stamped
from svfap.model.config import CONFIG_FILE, MODEL_TYPE, OF_TRANSFORMERS, ModelConfig, write_processor
from svfap.weights.folder import config_for

UNNAMED = "LABEL_"  # transformers' names of outputs without a name are this and their number
PROBLEMS = {"classification": "single_label_classification", "regression": "regression"}
# Arguments that transformers gives to a config, beside the attributes of one.
ARGUMENTS = ("attn_implementation", "experts_implementation", "auto_map", "quantization_config")


class SVFAPConfig(PreTrainedConfig):
    """Has every field of `svfap.ModelConfig` as an attribute of the same name, and writes them as svfap does.

    `id2label`, `num_labels` and `problem_type` come from `label_names`, `num_outputs` and `task`. Set to something else, as in
    `from_pretrained(folder, num_labels=7)`, they decide which head a model gets that is made from the config.
    Raises `UserError` for unknown names and for settings that do not fit together.
    """

    model_type = MODEL_TYPE
    attribute_map = {"hidden_size": "embed_dim", "num_attention_heads": "num_heads", "image_size": "img_size"}  # noqa: RUF012
    __eq__ = PreTrainedConfig.__eq__  # of all attributes

    if TYPE_CHECKING:  # no fields of its own: those of `ModelConfig` are set in `adopt`
        id2label: dict[int, str] | None
        label2id: dict[str, int] | None
        problem_type: str | None
        dtype: torch.dtype | None
        task: str

    def __post_init__(self, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if not _is_theirs(name)}
        theirs = {name: value for name, value in kwargs.items() if _is_theirs(name)}
        labels, problem, num_labels = (self.id2label, self.label2id), self.problem_type, theirs.pop("num_labels", None)
        self.adopt(ModelConfig.from_dict(given, theirs.get("name_or_path") or CONFIG_FILE))
        if labels[0] is not None:
            self.id2label, self.label2id = labels
        elif num_labels is not None:
            self.num_labels = num_labels
        self.problem_type = problem or self.problem_type
        super().__post_init__(**theirs)
        if self.dtype is None:
            self.dtype = torch.float32  # as svfap computes, also with weights that are stored in half of it

    def adopt(self, settings: ModelConfig) -> None:
        """Take over all settings, and what transformers derives from them."""
        for name, value in asdict(settings).items():
            setattr(self, name, value)
        names = settings.label_names or [f"{UNNAMED}{i}" for i in range(settings.num_outputs)]
        self.id2label = dict(enumerate(names))
        self.label2id = {name: number for number, name in enumerate(names)}
        self.problem_type = PROBLEMS["regression"] if settings.task == "regression" else None

    def settings(self, *tasks: str) -> ModelConfig:
        """The config for svfap: of a model for one of these tasks (default: its own), with the outputs of `id2label`.

        For another task than its own: of the same encoder with a new head, as in `load_model` with a task. Raises `UserError`
        for settings that do not fit together.
        """
        if self.task == "multitask" and "classification" in tasks:
            raise UserError(
                f"the model has several heads ({', '.join(head['name'] for head in self.heads)}), and transformers takes one: "
                "svfap.load_model(folder).of_head(NAME).save_pretrained(new_folder)"
            )
        config = ModelConfig(**{name: getattr(self, name) for name in ModelConfig.field_names()})
        labels = self.id2label or {}
        names = tuple(str(labels[number]) for number in sorted(labels))
        names = () if all(name.startswith(UNNAMED) for name in names) else names
        head: dict[str, Any] = {}
        if (len(labels), names) != (config.num_outputs, config.label_names):
            head = dict(num_outputs=len(labels), label_names=names, meanings=())
            if len(labels) != config.num_outputs:
                head |= dict(output_scale=(), output_offset=())
        task = self._task_of(tasks)
        return config_for(config, task, **head) if task != config.task else replace(config, **head)

    def _task_of(self, tasks: tuple[str, ...]) -> str:
        """The one of these tasks that `problem_type` says, else the model's own, else the first. Raises `UserError`."""
        said = next((task for task, problem in PROBLEMS.items() if problem == self.problem_type), None)
        if said is None and self.problem_type is not None:
            raise UserError(f"problem_type={self.problem_type!r} is none of {', '.join(PROBLEMS.values())}")
        return next((task for task in (said, self.task) if task in tasks), (*tasks, self.task)[0])

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write `config.json`, and the file by which a pipeline finds `SVFAPVideoProcessor`; kwargs: of the Hub."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_processor(Path(save_directory))
        super().save_pretrained(save_directory, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` has: the settings as svfap writes them, and what is transformers' own."""
        theirs = super().to_dict()
        written = {name: theirs[name] for name in (*OF_TRANSFORMERS, "quantization_config") if name in theirs}
        return {**stamped("model config", asdict(self.settings())), **written}


def _is_theirs(name: str) -> bool:
    return hasattr(PreTrainedConfig, name) or name in ARGUMENTS or name.startswith("_")
