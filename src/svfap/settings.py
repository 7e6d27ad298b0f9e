"""Groups of settings that several verbs share. A verb's own `config.py` inherits from them and adds its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from svfap.catalogue import is_of_authors
from svfap.errors import UserError
from svfap.remote import local_copy, url_of
from svfap.shipped import did_you_mean, local_model
from svfap.weighted import WeightedPath, check_weights, require_readable, split_weight

HUB_TIMEOUT_S, HUB_PREFIX = 5.0, "hf://"
EXPORT_SUFFIX = ".onnx"  # of the files of `svfap export`
MAX_FPS = 1000.0
Fps = float | Literal["own"] | None
Hop = float | Literal["auto"] | None
Paths = list[str] | Path | None  # one path, or several, which may have weights; see `svfap.weighted`
# Settings that may name packed data (`svfap pack`) at a URL.
PACKED = ("manifest", "dataset", "val_manifest", "test_manifest", "probe_dataset", "pretrain_dataset")


def as_text(value: Any, hint: Any) -> Any:
    """A number of YAML as text where the setting is text: `fold: 1` is the fold named 1. hint: type of the setting."""
    parts = {hint, *get_args(hint)}
    if type(value) in (int, float) and str in parts and not {int, float} & parts:
        return str(value)
    if isinstance(value, list) and list[str] in parts:
        return [as_text(part, str) for part in value]
    return value


def flat_settings(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, such as model.embed_dim."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (
            flat_settings(value, f"{before}{name}.") if isinstance(value, dict) and value else {before + name: value}
        )
    return flat


def checked_settings(config: type, given: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Settings with values of their fields' types, checked like those in a file of --config; `out` may be left out.

    where: of the settings, for messages. Raises `UserError` for an unknown name and a value of the wrong type.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config, skip={"out"})
    parser.add_argument("--out", type=Path | None)
    hints = get_type_hints(config)
    try:
        texts = {name: as_text(value, hints.get(name)) for name, value in given.items()}
        parsed = parser.parse_object(texts, defaults=False).clone(with_meta=False)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {plain_words(str(error))}") from None
    values: dict[str, Any] = parsed.as_dict()
    return values


# Types as users name them.
TYPES = {
    **{"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text", "Path": "a path"},
    **{"list": "a list", "tuple": "a list", "list[str]": "a list of texts", "list[float]": "a list of numbers"},
    "dict": "names with values",
}


def plain_words(message: str) -> str:
    """A message of the parser about a value of the wrong type, in one line: the setting, the type and the value."""
    text = " ".join(message.split())
    text = re.sub(r'(?:Parser key )"([\w.-]+)": ', r"\1: ", text)
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*), <class 'NoneType'>\] Errors: .*"
        r" Given value type: .* Given value: (.*)",
        r"Expected a \1 or null. Got value: \2", text,
    )  # fmt: skip
    text = re.sub(r"a typing\.Literal\[(.*?)\]", lambda found: f"one of {found[1].replace(chr(39), '')}", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: found[1].replace(chr(39), ""), text)
    text = re.sub(r"Expected a (?=<class|list\[|tuple|dict)", "Expected ", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"Expected tuple with (\d+) elements", r"Expected \1 values", text)
    names = "|".join(map(re.escape, sorted(TYPES, key=len, reverse=True)))
    expected, *rest = text.split(". Got value:", 1)
    expected = re.sub(
        rf"(?<=Expected )(?:{names})(?![\w\[])|(?<=, )(?:{names})(?= or null$|,)",
        lambda found: TYPES[found[0]],
        expected,
    )
    return ". Got value:".join([expected, *rest])


class Settings:
    """Base of all settings, which are built and checked alike from the command line and in Python.

    A path may be given as text: it becomes a `Path` before the values are checked. For the settings in `PACKED` it may be the
    URL of packed data. `Paths` may be a list, which stays one of texts. Raises `UserError` for a value that is none of its
    field's choices.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if (check := cls.__dict__.get("__post_init__")) is not None:

            @wraps(check)
            def convert_and_check(self: Settings) -> None:
                Settings.__post_init__(self)
                check(self)

            cls.__post_init__ = convert_and_check  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for name, kind, choices, others in _checks(type(self)):  # type: ignore[arg-type] # mypy takes a class for its object
            value = getattr(self, name)
            if kind == Paths and value is not None:
                object.__setattr__(self, name, _as_paths(name, value))
            elif kind in (Path, Path | None) and isinstance(value, str | Path):
                object.__setattr__(self, name, _as_path(name, value))
            if choices and value is not None and not isinstance(value, others) and value not in choices:
                raise UserError(f"{name}={value!r} is none of {', '.join(map(str, choices))}")


@cache  # as reading the annotations takes longer than all else that making settings does
def _checks(cls: type[Settings]) -> list[tuple[str, Any, list[Any], tuple[type, ...]]]:
    """Of each setting its name, its type, its choices if it has any, and the types of values beside them."""
    found = []
    for name, kind in get_type_hints(cls).items():
        others = tuple(part for part in get_args(kind) if isinstance(part, type))
        if float in others:
            others += (int,)
        found.append((name, kind, _choices(kind), others))
    return found


def _as_path(name: str, value: str | Path) -> Path:
    """The path that a setting means: of packed data at a URL the copy on this machine. Raises `UserError`."""
    url = url_of(value)
    if url is None or Path(value).exists():
        return Path(value)
    if name not in PACKED:
        raise UserError(f"{name}={url}: is a URL, which only {', '.join(PACKED)} may be; give a path on this machine")
    return local_copy(url)


def _as_paths(name: str, value: str | Path | Sequence[str | Path]) -> Path | list[str]:
    """One path, or several as texts, each with its weight if it has one. Raises `UserError`."""
    texts = [str(each) for each in ([value] if isinstance(value, str | Path) else value)]
    for text in texts:
        require_readable(name, text)
    given = [split_weight(text) for text in texts]
    if not given:
        raise UserError(f"{name}: is an empty list; give one path or several")
    if len(given) == 1:
        path, weight = given[0]
        if weight is not None:
            raise UserError(
                f"{name}={path}:{weight:g}: a weight is for one of several; give {path} alone, or others with it"
            )
        return _as_path(name, path)
    check_weights(name, given)
    return [str(WeightedPath(_as_path(name, path), weight)) for path, weight in given]


def _choices(kind: Any) -> list[Any]:
    """The values of a `Literal`, alone or in a union; none for other types."""
    parts = (kind, *get_args(kind))
    return [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """Where a model runs."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, …"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware is fast at it, else fp32."""
    batch_size: int = 8
    """Clips that the model processes at a time."""

    def __post_init__(self) -> None:
        require(self, 1, "batch_size")


@dataclass(frozen=True, kw_only=True)
class SourceSettings(Settings):
    """How manifests among the inputs are read."""

    root: Path | None = None
    """Folder that the paths in manifests are relative to; default: of a dataset's manifests the root in its dataset.json (such
    as its clips/), of others their own folder."""
    split: str | None = None
    """Use only rows whose `split` column has this value; default: all rows."""


@dataclass(frozen=True, kw_only=True)
class FramesSettings(Settings):
    """How folders of frames are read."""

    frames_fps: float | None = None
    """Pictures per second of folders of frames, which have no frame rate of their own; default: 25, which is said."""

    def __post_init__(self) -> None:
        require_rate(self, "frames_fps")


@dataclass(frozen=True, kw_only=True)
class ClockSettings(FramesSettings):
    """When the frames that a trained model gets are taken."""

    fps: float | Literal["own"] | None = None
    """Frames per second at which videos are sampled, by time: pictures are left out or repeated. A model counts frames, so
    at another rate than in its training it sees movements slower or faster than it has learned. Default: the rate of its
    training (`svfap info MODEL` shows it), or where that is not known each video's own; own: each video's own frames."""

    def __post_init__(self) -> None:
        FramesSettings.__post_init__(self)
        require_rate(self, "fps")


@dataclass(frozen=True, kw_only=True)
class JobSettings(Settings):
    """How work on many files is distributed."""

    engine: Literal["local", "ray"] = "local"
    """local: this machine; ray: the Ray cluster of RAY_ADDRESS (extra `ray`), whose machines share the files."""
    num_workers: int = 0
    """Files processed in parallel, one process each; 0: in this process, or all processors of the Ray cluster."""
    num_gpus: float = 0.0
    """GPUs, or a fraction of one, that each Ray task reserves."""
    item_timeout_s: float | None = None
    """Give up on a file after this many seconds and report it as failed; default: no limit."""

    def __post_init__(self) -> None:
        require(self, 0, "num_workers", "num_gpus")
        if self.num_gpus and self.engine != "ray":
            raise UserError(f"num_gpus={self.num_gpus:g}: is what a Ray task reserves; use it with engine=ray only")
        if self.item_timeout_s is not None and not 0 < self.item_timeout_s < float("inf"):
            raise UserError(f"item_timeout_s={self.item_timeout_s:g}: must be a number of seconds above 0")


def check_same_settings(
    where: object, before: Mapping[str, Any], now: Mapping[str, Any], fix: str, free: Collection[str] = ()
) -> None:
    """Raise `UserError` naming every setting, except those in `free`, in which the results at `where` differ from `now`."""
    names = [name for name in {**before, **now} if name not in free and before.get(name) != now.get(name)]
    if names:
        listed = ", ".join(f"{name}: {before.get(name)} then, {now.get(name)} now" for name in names)
        raise UserError(f"{where}: was made with other settings ({listed}); {fix}")


def require(config: Any, least: float, *names: str) -> None:
    """Raise `UserError` for a field that is given and below `least`."""
    _require(config, names, lambda value: value >= least, f"at least {least}")


def require_numbers(config: Any, *names: str) -> None:
    """Raise `UserError` for a list with a number that is NaN."""
    for name in names:
        if any(math.isnan(value) for value in getattr(config, name)):
            raise UserError(
                f"{name}={getattr(config, name)}: NaN is no number to look for; an empty cell means the same anyway"
            )


def require_fraction(config: Any, *names: str, with_one: bool = True) -> None:
    """Raise `UserError` for a field that is given and outside 0 to 1. with_one: 1 itself is allowed."""
    if with_one:
        _require(config, names, lambda value: 0 <= value <= 1, "from 0 to 1")
    else:
        _require(config, names, lambda value: 0 <= value < 1, "from 0 to less than 1")


def require_positive(config: Any, *names: str) -> None:
    """Raise `UserError` for a field that is given and not above 0."""
    _require(config, names, lambda value: value > 0, "more than 0")


def require_rate(config: Any, *names: str) -> None:
    """Raise `UserError` for a field that is given and is no number of pictures per second."""
    what = f"above 0 and at most {MAX_FPS:g} pictures per second"
    _require(config, names, lambda value: 0 < value <= MAX_FPS, what, "g")


def _require(config: Any, names: Sequence[str], holds: Callable[[Any], bool], what: str, form: str = "") -> None:
    """Texts among the values are choices such as `own`, which were checked."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not isinstance(value, str) and not holds(value):
            raise UserError(f"{name}={value:{form}}: must be {what}")


def several(config: Any, name: str, known: Sequence[str]) -> list[str]:
    """One or several names, given as a list or separated by commas. Raises `UserError` for one that is not known."""
    given = getattr(config, name)
    names = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given)
    if unknown := [each for each in names if each not in known]:
        raise UserError(f"{name}={unknown[0]!r} is none of {', '.join(known)}")
    if not names:
        raise UserError(f"{name}: give one or several of {', '.join(known)}")
    return names


def require_file(config: Any, name: str, suffixes: tuple[str, ...]) -> None:
    """Raise `UserError` for the name of a file to write that is given and has another suffix or is a folder."""
    path = getattr(config, name)
    if path is None:
        return
    if path.suffix not in suffixes:
        raise UserError(f"{name}={path}: the suffix must be one of {', '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"{name}={path}: is a folder; give the name of a file")


def is_hub_name(model: str | Path) -> bool:
    """Whether this has the form of a repository's name on the Hugging Face Hub: owner/name, or hf://owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(model).removeprefix(HUB_PREFIX)) is not None


def is_exported(model: str | Path) -> bool:
    """Whether this names a file of `svfap export`."""
    return Path(model).suffix.lower() == EXPORT_SUFFIX


def refuse_exported(model: str | Path, field: str | None = None) -> None:
    """Raise `UserError` for a file of `svfap export` where weights are needed. field: the setting that names it."""
    if is_exported(model):
        name = model if field is None else f"{field}={model}"
        raise UserError(
            f"{name}: is an exported model, which predict, extract and evaluate run; here name the run or folder that it was "
            "made of"
        )


def require_weights(model: str, field: str = "model", fix: str = "") -> None:
    """As `require_model`; raises `UserError` for a file of `svfap export` too, as `load_model` reads none."""
    require_model(model, field, fix)
    refuse_exported(model, field)


def require_model(model: str, field: str = "model", fix: str = "") -> None:
    """Raise `UserError` unless `model` is an existing path or a repository on the Hub (owner/name), in cache or reachable.

    The name of a model that comes with the package is one, whatever lies in the current folder (`./NAME` is a folder there).
    A name whose parent is a local folder is a path, and one that begins with authors/ is of a file of the authors: a typing error
    in these is reported without asking the Hub, which has `HUB_TIMEOUT_S` to answer. field: the setting that names the model.
    fix: what to do if there is none.
    """
    path, end = Path(model), f"; {fix}" if fix else ""
    if local_model(model) is not None:
        return
    if is_exported(model):
        raise UserError(f"{field}={model}: no such file; `svfap export` writes one{end}")
    if path.parent.is_dir() or is_of_authors(model) or not is_hub_name(model):
        raise UserError(f"{field}={model}: no such folder or checkpoint{did_you_mean(model)}{end}")
    import huggingface_hub

    repository = model.removeprefix(HUB_PREFIX)
    if isinstance(huggingface_hub.try_to_load_from_cache(repository, "config.json"), str):
        return
    try:
        url = huggingface_hub.hf_hub_url(repository, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # network, permission and format errors of the Hub's client
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{field}={model}: no such folder, and not available on the Hub ({reason}){end}") from None
