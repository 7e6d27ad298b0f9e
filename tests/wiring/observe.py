"""What a run shows of its settings: the clips that enter the model, losses, rates, weights, scores, files and messages."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn.modules import module as torch_module

import svfap.console
from svfap.data.video import open_video, write_video
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.encoder import TPSBT
from svfap.settings import JobSettings

LABELS = ("happy", "neutral", "sad")
SIZE = (32, 48)  # height, width


@dataclass(frozen=True)
class Effect:
    """Two values of a setting, and what they must and must not change.

    a, b: settings of two runs, beside those that all runs share. differ: names of observations that must differ. equal: those
    that must not.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    differ: tuple[str, ...]
    equal: tuple[str, ...] = ()


def check(effect: Effect, a: dict[str, Any], b: dict[str, Any]) -> None:
    """Fail unless the observations of the two runs differ as the effect says."""
    for name in effect.differ:
        assert a[name] != b[name], f"{name} is {a[name]} with {effect.a} and with {effect.b}"
    for name in effect.equal:
        assert a[name] == b[name], f"{name} differs between {effect.a} and {effect.b}"


class CachedRuns:
    """Runs by their settings; each is done once, in this process. `observed` does one, with a folder for what it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, dict[str, Any]] = {}

    def __call__(self, settings: dict[str, Any], *how: Any) -> dict[str, Any]:
        key = f"{how} {sorted(settings.items(), key=str)}"
        if key not in self._done:
            out = Path(mkdtemp(dir=self.folder))
            self._done[key] = self.observed(dict(settings), out, *how)
        return self._done[key]

    def observed(self, settings: dict[str, Any], out: Path, *how: Any) -> dict[str, Any]:
        raise NotImplementedError


def save_classifier(folder: Path, seed: int, **settings: Any) -> None:
    """A classifier, or with `task` another model, of 16 successive frames with weights so large that its outputs differ from
    clip to clip."""
    torch.manual_seed(seed)
    task = settings.pop("task", "classification")
    model = create_model("svfap_debug", task, **{"label_names": LABELS, "sampling_stride": 1, **settings})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)


def names_of(config: type) -> set[str]:
    return {setting.name for setting in fields(config)}


def digest(*arrays: torch.Tensor | np.ndarray) -> str:
    """A short hash of the exact contents of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        tensor = torch.tensor(array) if isinstance(array, np.ndarray) else array.detach().cpu().contiguous()
        found.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def weights_of(model: torch.nn.Module) -> str:
    return digest(*(tensor for _, tensor in sorted(model.state_dict().items())))


@dataclass
class Watch:
    """The forward passes within `watching`: clips that enter the encoder and outputs of the model (digests), whether in training,
    and the weights at the first."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)
    first_weights: str = ""

    def clips(self) -> list[str]:
        """Each clip that entered the encoder, whatever the batches."""
        return [digest(clip) for clips in self.tensors for clip in clips]


@contextlib.contextmanager
def watching(keep: int = 100) -> Iterator[Watch]:
    """Note every forward pass of a model within the block; the first `keep` inputs are kept whole."""
    watch = Watch()

    def note(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, Model | TPSBT):
            watch.first_weights = watch.first_weights or weights_of(module)
        if isinstance(module, TPSBT):
            clips = args[0]
            watch.inputs.append(digest(clips))
            watch.training.append(module.training)
            if len(watch.tensors) < keep:
                watch.tensors.append(clips.detach().clone())

    def note_outputs(module: torch.nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if isinstance(module, Model):
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            watch.outputs.append(digest(*(first.values() if isinstance(first, dict) else [first])))

    handles = (
        torch_module.register_module_forward_pre_hook(note),
        torch_module.register_module_forward_hook(note_outputs),
    )
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def messages() -> Iterator[io.StringIO]:
    """What is said to the user within the block."""
    text, console = io.StringIO(), svfap.console.console
    before, console._file = console._file, text  # `console.file` would fix what is standard error now
    try:
        yield text
    finally:
        console._file = before


def noting_jobs(run_jobs: Any, given: list[dict[str, Any]]) -> Any:
    """In place of `run_jobs`: note the settings of jobs that get to it, and do the jobs in this process."""

    def run(*args: Any, jobs: JobSettings, **more: Any) -> Any:
        given.append({name: getattr(jobs, name) for name in sorted(names_of(JobSettings))})
        return run_jobs(*args, **more)

    return run


def observe_training(train: Any, config: Any) -> dict[str, Any]:
    """Run a training; what it showed, by name."""
    with watching() as watch, messages() as said:
        result = train(config)
    out = Path(config.out)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if line["kind"] == "train"]
    model_config = json.loads((out / "best" / "config.json").read_text())
    provenance = model_config.pop("provenance")
    groups = parameter_groups(out / "last" / "optimizer.bin")
    passes = list(zip(watch.inputs, watch.outputs, watch.training, strict=True))
    return {
        "first_weights": watch.first_weights,
        "first_clips": watch.inputs[0],
        "first_batch_size": len(watch.tensors[0]),
        "num_forwards": sum(watch.training),
        "validated_clips": [clips for clips, _, training in passes if not training],
        "validated": [outputs for _, outputs, training in passes if not training],
        "num_steps": len(steps),
        "first_loss": steps[0]["loss"],
        "losses": [line["loss"] for line in steps],
        "rates": [line["lr"] for line in steps],
        "first_norm": steps[0]["grad_norm"],
        "betas": [group["betas"] for group in groups],
        "decay": [group["weight_decay"] for group in groups],
        "scales": [group.get("lr", 0) / max(steps[-1]["lr"], 1e-30) for group in groups],
        "weights": digest(_file(out / "best" / "model.safetensors")),
        "last_weights": digest(_file(out / "last" / "model.safetensors")),
        "model": model_config,
        "provenance": provenance,
        "validation": result.metrics["last_validation"],
        "chosen_by": result.metrics["chosen_by"],
        "best_epoch": result.metrics["best_epoch"],
        "messages": [line for line in said.getvalue().splitlines() if " left " not in line],  # without times
        "finished": result.finished,
    }  # fmt: skip


class _WithoutTensors(pickle.Unpickler):
    """Reads what `torch.save` wrote, with None in place of each tensor, which takes most of the time."""

    def persistent_load(self, _: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return (lambda *_: None) if name.startswith("_rebuild_") else super().find_class(module, name)


def parameter_groups(path: Path) -> list[dict[str, Any]]:
    """Those of the optimiser whose state is in a file."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        groups: list[dict[str, Any]] = _WithoutTensors(io.BytesIO(archive.read(name))).load()["param_groups"]
    return groups


def _file(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8)


def write_material(folder: Path, number: int = 18, num_frames: int = 40) -> Path:
    """Videos and `m.csv` with every column that a setting refers to; returns the manifest.

    The first 12 videos are for training, the others for validation. Each shows a pattern that moves, not square.
    """
    rng = np.random.default_rng(0)
    lines = ["path,label,valence,arousal,subject,group,split,frame_values"]
    (folder / "frames").mkdir(parents=True)
    for n in range(number):
        pattern = rng.integers(0, 255, (SIZE[0], SIZE[1] + num_frames, 3)).astype(np.uint8)
        pattern = np.repeat(np.repeat(pattern[::4, ::4], 4, 0), 4, 1)[: SIZE[0]]
        write_video(folder / f"v{n:02d}.mp4", (pattern[:, t : t + SIZE[1]] for t in range(num_frames)), 25)
        values = np.stack([np.linspace(-0.5, 0.5, num_frames) * (n % 3 - 1), np.full(num_frames, n / 40)], 1)
        np.savetxt(folder / "frames" / f"v{n:02d}.csv", values, delimiter=",", header="valence,arousal", comments="")
        part, label = "train" if n < 12 else "val", LABELS[0 if n // 2 == 5 else n // 2 % 3]
        cells = (f"v{n:02d}.mp4", label, f"{n % 7 / 7:.3f}", f"{n % 4 / 4:.3f}", f"p{n // 2}", f"g{n // 2}", part)
        lines.append(",".join((*cells, f"frames/v{n:02d}.csv")))
    manifest = folder / "m.csv"
    manifest.write_text("\n".join(lines) + "\n")
    cells = [line.split(",") for line in lines]  # values per frame alone
    (folder / "per_frame.csv").write_text("".join(f"{row[0]},{row[6]},{row[7]}\n" for row in cells))
    # The same videos as folders of frames, which have no rate of their own.
    for n in range(number):
        pictures = folder / f"f{n:02d}"
        pictures.mkdir()
        with open_video(folder / f"v{n:02d}.mp4") as video:
            for t, (_, picture) in enumerate(video.frames()):
                cv2.imwrite(str(pictures / f"{t:03d}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    (folder / "frames.csv").write_text(
        "\n".join([lines[0], *(re.sub(r"^v(\d+).mp4", r"f\1", line) for line in lines[1:])]) + "\n"
    )
    return manifest
