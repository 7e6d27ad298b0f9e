"""The demo: its steps, each a command of `svfap`, two at a time on one core each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from svfap.console import say
from svfap.demo.config import PROBE, DemoConfig
from svfap.errors import Interrupted, UserError
from svfap.files import make_folder
from svfap.probe.config import PROBE_FILE, PROBE_FOLDER
from svfap.settings import check_same_settings
from svfap.signals import STOP_SIGNALS, interrupt, signal_handlers

AT_ONCE = 2
COMMAND = (sys.executable, "-P", "-m", "svfap")
POLL_S = 0.1
TITLE = "SVFAP demo on synthetic faces"
RECORD = "synth.json"  # of a finished dataset of `svfap synth`
FROM_SCRATCH = ("--epochs", "300", "--warmup_epochs", "23")  # it takes more steps than fine-tuning pre-trained weights


class Step(NamedTuple):
    """A command of `svfap`. makes: the file that it writes last. needs: files that other steps write, which come before it."""

    makes: Path
    words: tuple[str, ...]
    needs: tuple[Path, ...] = ()


class Demo(NamedTuple):
    """What `svfap demo` has written. page: about the runs. table: scores of the runs and of what is simpler, as Markdown."""

    page: Path
    table: str


def run_demo(config: DemoConfig) -> Demo:
    """Run what is left of the demo. Raises `UserError` for a folder of another seed and for a step that fails."""
    record = config.out / "data" / RECORD
    if record.exists():
        before = {"seed": json.loads(record.read_text(encoding="utf-8")).get("seed")}
        check_same_settings(config.out, before, {"seed": config.seed}, "choose another `out`")
    make_folder(config.out)
    *planned, page = steps(config)
    run_steps(planned)
    with beside(page):
        from svfap.demo.table import demo_table

        table = demo_table(config.out)
    return Demo(page.makes, table)


def steps(config: DemoConfig) -> list[Step]:
    """All steps, in the order in which they start; the last one writes the page."""
    out, seed = config.out, ("--seed", str(config.seed))
    data = out / "data"
    metrics = {name: out / name / "metrics.json" for name in ("pretrain", "scratch", "finetuned", "longer")}
    record, video = data / RECORD, str(data / "videos" / "test_000000.mp4")
    pretrain, longer = out / "pretrain", out / "longer"
    synth = ("synth", str(data), "--config", "demo/synth", *seed, "--num_workers", "2")
    first: tuple[str, ...] = ("pretrain", "--config", "demo/pretrain", "--manifest", str(data / "pretrain.csv"), *seed)
    first = (*first, "--out", str(pretrain), "--resume")
    tune = ("finetune", "--config", "demo/finetune", "--manifest", str(data / "train.csv"), *seed, "--resume")
    inits = {"scratch": FROM_SCRATCH, "finetuned": ("--init", str(pretrain)), "longer": ("--init", "demo")}
    trained = [Step(record, synth), Step(metrics["pretrain"], first, (record,))]
    read: list[Step] = []
    for name, words in inits.items():
        needs = (record, metrics["pretrain"]) if name == "finetuned" else (record,)
        trained.append(Step(metrics[name], (*tune, *words, "--out", str(out / name)), needs))
        test = ("evaluate", "--model", str(out / name), "--manifest", str(data / "test.csv"))
        read.append(Step(out / name / "evaluation" / "metrics.json", test, (metrics[name],)))
    reader = (word for name, value in PROBE.items() for word in (f"--{name}", str(value)))
    probe = ("--dataset", str(data), *reader)
    read.append(Step(pretrain / PROBE_FOLDER / PROBE_FILE, ("probe", str(pretrain), *probe), (metrics["pretrain"],)))
    frozen = out / "longer_frozen" / PROBE_FOLDER
    read.append(Step(frozen / PROBE_FILE, ("probe", "demo", *probe, "--out", str(frozen)), (record,)))
    picture = pretrain / "reconstruction" / "reconstruction.png"
    words = ("reconstruct", video, "--model", str(pretrain), "--out", str(picture.parent))
    read.append(Step(picture, words, (metrics["pretrain"],)))
    table = longer / "prediction" / "affect.csv"
    words = (
        "predict",
        video,
        "--faces",
        "none",
        "--model",
        str(longer),
        "--hop_s",
        "0.2",
        "--out",
        str(table),
        "--overwrite",
    )
    read.append(Step(table, words, (metrics["longer"],)))
    page = out / "report.html"
    runs = (str(out / name) for name in ("longer", "finetuned", "scratch", "longer_frozen", "pretrain"))
    shown = Step(page, ("report", *runs, "--out", str(page), "--title", TITLE), tuple(step.makes for step in read))
    return [*trained, *read, shown]


def run_steps(planned: Sequence[Step], at_once: int = AT_ONCE) -> None:
    """Run the steps whose files are not there, each as soon as what it needs is, and say their commands.

    After a signal the commands save and end, and `Interrupted` is raised; so they do if one fails: `UserError`.
    """
    waiting = [step for step in planned if not step.makes.exists()]
    running: dict[Step, subprocess.Popen[bytes]] = {}
    with signal_handlers(interrupt, *STOP_SIGNALS):
        try:
            while waiting or running:
                coming = {step.makes for step in (*waiting, *running)}
                for step in [step for step in waiting if not coming.intersection(step.needs)][: at_once - len(running)]:
                    waiting.remove(step)
                    running[step] = _start(step)
                time.sleep(POLL_S)
                for step in [step for step, process in running.items() if process.poll() is not None]:
                    _check(step, running.pop(step).returncode)
        finally:
            _stop(running.values())


@contextmanager
def beside(step: Step) -> Iterator[None]:
    """Run a step beside the block, unless its file is there. Raises as `run_steps`."""
    if step.makes.exists():
        yield
        return
    with signal_handlers(interrupt, *STOP_SIGNALS):
        process = _start(step)
        try:
            yield
            _check(step, process.wait())
        finally:
            _stop([process])


def _start(step: Step) -> subprocess.Popen[bytes]:
    """Say and start a command on one core, which can import the same modules; it says its progress in lines."""
    say(f"svfap {shlex.join(step.words)}")
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TTY_COMPATIBLE": "0", "PYTHONPATH": path}
    return subprocess.Popen([*COMMAND, *step.words], env=environment, stdin=subprocess.DEVNULL)


def _stop(running: Iterable[subprocess.Popen[bytes]]) -> None:
    """Let commands save and end; a second signal, after that of the terminal, does not stop a training from saving."""
    for process in running:
        process.terminate()
    for process in running:
        process.wait()


def _check(step: Step, status: int) -> None:
    if status > 128:
        raise Interrupted(status - 128)
    if status != 0:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise UserError(f"svfap {step.words[0]}: failed ({how}), as it says above; what is finished is not done again")
