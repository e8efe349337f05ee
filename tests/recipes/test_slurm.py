"""recipes/slurm.sbatch: run as SLURM would, with stand-ins for `srun` and `scontrol` on this machine alone."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.chain import ROOT, write_config, write_diaries
from tests.processes import environment

SBATCH = ROOT / "recipes" / "slurm.sbatch"
SRUN = """#!/usr/bin/env bash
# Every task of a step in a process of its own, each on a "node" of its own.
tasks=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" & tasks+=($!)
done
echo "${tasks[@]}" > step.pids
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> scontrol.log\n'
QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"]


@pytest.fixture
def job(tmp_path):
    """Starts the script's body as job 123 of two nodes of one task each, in `tmp_path`."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"JOB_ID": "123", "JOB_NAME": "svd-lightning", "NTASKS": "2", "NNODES": "2", "NTASKS_PER_NODE": "1"}
    variables = {f"SLURM_{name}": value for name, value in slurm.items()} | {"SLURM_NODELIST": "127.0.0.1"}
    settings = {**environment(), **variables, "PATH": path, "PYTHONPATH": str(ROOT)}
    started = []

    def start(config, strategy):
        command = ["bash", str(SBATCH), str(config), str(ROOT / f"configs/strategy/{strategy}.yaml"), *QUICK]
        log = (tmp_path / f"slurm-{len(started)}.out").open("w")
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=log, stderr=log, start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def log(folder):
    return "".join(path.read_text()[-4000:] for path in sorted(folder.glob("slurm-*.out")))


def wait_for(path, process, folder, *, seconds=170):
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        assert process.poll() is None, log(folder)
        time.sleep(0.02)
    assert path.exists(), log(folder)


def end(process, tasks):
    """What SLURM does to a job that is queued again: SIGTERM, and SIGKILL to what is left a while later."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for task in tasks:
            with suppress(ProcessLookupError):
                os.kill(task, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    assert process.poll() is not None


def test_bash_can_read_it_and_slurm_its_options():
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    options = [line.split()[1] for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--requeue", "--signal=USR1@300", "--open-mode=append"} <= set(options)
    assert all(option.startswith("--") for option in options)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_job_whose_time_is_up_goes_on_where_it_was(strategy, job, tmp_path):
    diaries = write_diaries(tmp_path / "data", train=400, calibration=16)
    config = write_config(
        tmp_path / "run.yaml", diaries, tmp_path, trainer={"max_epochs": 2}, data={"batch_size": 4}
    )
    first = job(config, strategy)
    wait_for(tmp_path / "run/version_0/checkpoints/last.ckpt", first, tmp_path)  # epoch 0 is done
    tasks = [int(task) for task in (tmp_path / "step.pids").read_text().split()]
    for task in tasks:
        os.kill(task, signal.SIGUSR1)
    wait_for(tmp_path / "scontrol.log", first, tmp_path, seconds=60)
    assert (tmp_path / "scontrol.log").read_text().split() == ["requeue", "123"]
    end(first, tasks)

    [saved] = (tmp_path / "requeue/123").glob("*.ckpt")
    content = torch.load(saved, weights_only=True)
    assert saved.name == "hpc_ckpt_1.ckpt"
    assert 50 < content["global_step"] < 100
    assert content["calibration"]["global_step"] == 50
    assert content["calibration"]["strengths"] == last(tmp_path / "run/version_0")["calibration"]["strengths"]

    second = job(config, strategy)
    assert second.wait(timeout=200) == 0, log(tmp_path)
    text = log(tmp_path)
    assert f"the checkpoint's weights are of step {content['global_step']}, its strengths of step 50" in text
    final = last(tmp_path / "run/version_1")
    assert final["global_step"] == final["calibration"]["global_step"] == 100
    assert final["state_dict"].keys() == content["state_dict"].keys()


def last(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)
