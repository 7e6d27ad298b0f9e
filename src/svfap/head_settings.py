"""The settings of one of several heads, and errors about them: keys of the head, which are no options of a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from svfap.errors import UserError

COMMON = ("task", "weight", "frame_level", "invalid_marks")
OF_TASK = {
    "classification": ("label_column", "label_names", "smoothing", "class_weights"),
    "regression": ("dimensions", "output_activation", "loss", "label_scaling", "label_range"),
}
_KEYS = "|".join({*COMMON, *(name for names in OF_TASK.values() for name in names)})


@contextmanager
def about_head(name: str) -> Iterator[None]:
    """Until the end, an error is about this head, '' being the only one: it begins with the head, and its settings are written as
    in `heads`: loss=ccc as loss: ccc, and `loss` as loss."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        text = re.sub(rf"(?<![\w'\"`/.-])({_KEYS})=(?=\S)", r"\1: ", re.sub(rf"`({_KEYS})`", r"\1", str(error)))
        raise type(error)(f"heads: {name}: {text}") from None
