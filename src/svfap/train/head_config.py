"""The heads of a fine-tuning as its settings describe them: one, or each of several with settings of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from svfap.errors import UserError
from svfap.head_settings import COMMON, OF_TASK, about_head
from svfap.model.config import HEAD_NAME, OF_LABELS

if TYPE_CHECKING:
    from svfap.train.config import FinetuneConfig

# With several heads these are settings of each.
ONLY_OF_A_HEAD = (
    *("task", "label_names", "dimensions", "frame_level", "output_activation", "loss", "label_scaling", "label_range"),
    *("balanced_sampling", "class_weights"),
)


@dataclass(frozen=True)
class HeadConfig:
    """One head. name: '' of the only one. config: the settings of a run with this head alone. weight: of its loss.

    label_column: of manifests, with the classes.
    """

    name: str
    config: FinetuneConfig
    weight: float = 1.0
    label_column: str = "label"

    @property
    def columns(self) -> dict[str, Any]:
        """What `read_manifest` needs to know to read the labels."""
        settings = {name: getattr(self.config, name, None) for name in OF_LABELS}
        return {**settings, "label_column": self.label_column}


def head_configs(config: FinetuneConfig) -> list[HeadConfig]:
    """The heads of a run; without `heads` its only one. Raises `UserError` for settings of heads that cannot be used."""
    if not config.heads:
        return [HeadConfig("", config)]
    for name in ONLY_OF_A_HEAD:
        value = getattr(config, name)
        if value != getattr(type(config), name):
            where = "is not possible with `heads`" if name == "balanced_sampling" else "with `heads`, give it to a head"
            raise UserError(f"{name}={value}: {where}")
    return [_head_config(config, name, given) for name, given in sorted(config.heads.items(), key=str)]


def _head_config(config: FinetuneConfig, name: Any, given: Any) -> HeadConfig:
    with about_head(str(name)):
        if not isinstance(name, str) or not re.fullmatch(HEAD_NAME, name) or name.startswith(("prob_", "pred_")):
            raise UserError(
                "is no name of a head; use letters, digits, - and _, beginning with a letter, not with prob_ or pred_"
            )
        if not isinstance(given, Mapping):
            raise UserError(f"{given!r} must be settings, such as {{task: classification}}")
        task = given.get("task")
        if task is None:
            raise UserError(f"give its task, {' or '.join(OF_TASK)}")
        if task not in OF_TASK:
            raise UserError(f"task={task!r} is none of {', '.join(OF_TASK)}")
        for setting, value in given.items():
            if setting not in (known := (*COMMON, *OF_TASK[task])):
                raise UserError(f"{setting!r} is no setting of a head for {task}; there are {', '.join(known)}")
            if (wanted := _wanted(setting, value)) is not None:
                raise UserError(f"{setting}={value!r} must be {wanted}")
        if task == "regression" and not given.get("dimensions"):
            raise UserError("give `dimensions`, the columns of its values")
        own = {setting: value for setting, value in given.items() if setting not in ("weight", "label_column")}
        if own.get("label_range") is not None:
            own["label_range"] = tuple(own["label_range"])
        own.setdefault("output_activation", "none")
        alone = replace(config, heads={}, best_by=None, **own)
    return HeadConfig(name, alone, float(given.get("weight", 1)), given.get("label_column", "label"))


def _wanted(setting: str, value: Any) -> str | None:
    """What a setting must be, if this value is of the wrong type."""
    if setting == "frame_level":
        return None if isinstance(value, bool) else "true or false"
    if setting in ("weight", "smoothing"):
        return None if _is_number(value) and value >= 0 else "a number, at least 0"
    if setting in ("label_names", "dimensions"):
        names = isinstance(value, list | tuple) and value and all(isinstance(each, str) and each for each in value)
        if not names:
            return "a list of names"
        return None if len(set(value)) == len(value) else "a list of different names"
    if setting in ("invalid_marks", "label_range"):
        numbers = isinstance(value, list | tuple) and all(map(_is_number, value))
        pair = setting == "label_range"
        return None if numbers and (len(value) == 2 or not pair) else "two numbers" if pair else "a list of numbers"
    return None if isinstance(value, str) and value else "text"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
