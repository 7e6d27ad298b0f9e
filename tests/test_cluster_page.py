"""The commands, the Slurm script and the Kubernetes manifest of docs/cluster.md."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPT, MANIFEST = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("bash", "yaml"))
COMMANDS = [
    shlex.split(found.rstrip("& "))
    for found in re.findall(r"^.*?\b(torchrun --.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
]


def test_the_page_has_commands_of_torchrun():
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_torchrun_knows_its_options_and_starts_svfap(number):
    options = get_args_parser().parse_args(
        [re.sub(r'"?\$\w+"?', "4", word) if "NNODES" in word else word for word in COMMANDS[number][1:]]
    )
    assert (options.module, options.training_script) == (True, "svfap")
    assert options.training_script_args[0] == "pretrain" and "--resume" in options.training_script_args
    assert options.standalone or (options.rdzv_backend, bool(options.rdzv_id)) == ("c10d", True)
    assert options.standalone or options.rdzv_endpoint.endswith(":29500")


def test_the_manifest_names_its_first_pod_as_the_meeting_place():
    service, job = yaml.safe_load_all(MANIFEST)
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    (container,) = pod["containers"]
    shell = container["args"][0]
    assert subprocess.run(["sh", "-n", "-c", shell]).returncode == 0
    assert f"--rdzv-endpoint {name}-0.{pod['subdomain']}:29500" in shell
    assert "--nnodes 4" in shell and service["metadata"]["name"] == pod["subdomain"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" > "$PLACE/requeued"; fi',
    "scancel": 'echo "$@" > "$PLACE/cancelled"; kill -TERM $(cat "$PLACE/torchrun")',
    "srun": 'while [ "${1#--}" != "$1" ]; do echo "$1" >> "$PLACE/options"; shift; done; exec "$@"',
    "torchrun": 'echo "$@" > "$PLACE/arguments"; trap "sleep 0.3; exit 1" TERM; echo $$ > "$PLACE/torchrun"\n'
    'for i in $(seq 300); do [ -e "$PLACE/end" ] && exit 0; sleep 0.05; done',
}


@pytest.fixture
def job(tmp_path):
    """Starts the script of the page among stand-ins for Slurm; waits until its torchrun runs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{content}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(SCRIPT.replace("/shared/runs/pretrain", str(tmp_path / "run")))
    (tmp_path / "run").mkdir()
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "PLACE": str(tmp_path), "SLURM_JOB_ID": "7"}
    variables |= {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "64"}
    process = subprocess.Popen(["bash", str(tmp_path / "job.sh")], env={**os.environ, **variables})
    deadline = time.monotonic() + 30
    while not (tmp_path / "torchrun").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()


def test_the_slurm_job_saves_and_requeues_itself_before_its_time_is_over(job, tmp_path):
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == 0
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert "--nnodes 2 " in (arguments := (tmp_path / "arguments").read_text())
    assert "--rdzv-endpoint node1:29500 --rdzv-id 7.0 " in arguments
    options = (tmp_path / "options").read_text().split()
    assert options == ["--kill-on-bad-exit=1", "--cpus-per-task=64"], "srun does not inherit the cores of sbatch"


def test_the_slurm_job_is_not_requeued_if_the_run_is_finished(job, tmp_path):
    (tmp_path / "run" / "metrics.json").write_text("{}")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == 1  # of the stand-in
    assert not (tmp_path / "requeued").exists()


def test_the_slurm_job_has_the_status_of_the_training(job, tmp_path):
    (tmp_path / "end").touch()
    assert job.wait(timeout=30) == 0
    assert not (tmp_path / "requeued").exists()
