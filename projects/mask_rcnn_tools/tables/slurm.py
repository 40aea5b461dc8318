"""Submits runs to a Slurm cluster with submitit: one job per run, after the jobs of its stages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.tables.jobs import Job

PLAN_FILE = "plan.json"
_MARGIN = 1.5  # of the time limit over the estimate
_LEAST_MINUTES = 30


class TrainJob:
    """A Slurm job: it starts `train_net.py` and waits for it.

    Slurm sends a signal before a time limit or a preemption. submitit then calls
    :meth:`checkpoint`, which lets the training save its state and requeues the job.

    Args:
        command: Program and arguments.
        folder: Working directory.
    """

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self.command = list(command)
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs the command.

        Returns:
            0.

        Raises:
            RuntimeError: The command failed. The job fails, and jobs that need it do not start.
        """
        self._process = subprocess.Popen(
            self.command, cwd=self.folder, preexec_fn=_ignore_the_warning
        )
        code = self._process.wait()
        if code != 0:
            raise RuntimeError(f"{' '.join(self.command)} ended with exit status {code}")
        return code

    def checkpoint(self) -> Any:
        """Stops the training in a state that can be resumed, and requeues this job."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return DelayedSubmission(TrainJob(self.command, self.folder))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}


def _ignore_the_warning() -> None:
    """Ignores Slurm's signal in the training, which all processes of the job may receive."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's; stays so in the new program


def submit(
    jobs: Sequence[Job],
    command: Sequence[str],
    folder: Path,
    minutes: Mapping[Job, float],
    options: Mapping[str, Any],
    gpus_per_row: int,
    extra: Sequence[str],
    table_command: Sequence[str],
    dry_run: bool,
) -> dict[str, Any]:
    """Submits jobs, and a last one that prints the table.

    Args:
        jobs: Jobs, inputs before what needs them.
        command: Program that takes the arguments of a job.
        folder: Directory for scripts, logs and the plan. All nodes must see it.
        minutes: Estimates for the time limits.
        options: Options of sbatch that replace the defaults.
        gpus_per_row: GPUs of a job. 0 for none.
        extra: Further arguments of every job.
        table_command: Command that prints the table from records.
        dry_run: Write the scripts and submit nothing. Job ids are then invented.

    Returns:
        The plan, which is also written to `plan.json`: id, dependency, command and script of each
        job.

    Raises:
        ConfigError: submitit or Slurm is missing, or an option is unknown.
    """
    executor = _executor(folder, dry_run)
    ids: dict[Job, str] = {}
    entries = []
    for job in jobs:
        stages = [ids[stage] for _, stage in job.inputs if stage in ids]
        words = [*command, *job.arguments(extra)]
        limit = max(_LEAST_MINUTES, int(_MARGIN * minutes[job]) + 1)
        entry = _submit_one(
            executor,
            words,
            {
                "job_name": job.slug,
                "time": limit,
                "gpus_per_node": gpus_per_row or None,
                **options,
                "dependency": f"afterok:{':'.join(stages)}" if stages else None,
                # else a job whose stage failed would stay in the queue for ever
                "additional_parameters": {"kill-on-invalid-dep": "yes"} if stages else None,
                "setup": _setup(),
            },
        )
        ids[job] = entry["id"]
        entries.append({"name": job.name, "folder": str(job.folder), **entry})
    if jobs:
        keep = {k: v for k, v in options.items() if k in ("partition", "account", "qos")}
        final = _submit_one(
            executor,
            list(table_command),
            {
                "job_name": "table",
                "time": _LEAST_MINUTES,
                **keep,
                "dependency": f"afterany:{':'.join(ids.values())}",
                "setup": _setup(),
            },
        )
        entries.append({"name": "the table", "folder": str(folder), **final})
    plan = {"submitted": not dry_run, "jobs": entries}
    atomic_write_text(folder / PLAN_FILE, json.dumps(plan, indent=2) + "\n")
    return plan


def waiting_ids(folder: Path) -> list[str]:
    """Returns the ids of earlier jobs of a table that are still in Slurm's queue."""
    try:
        plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    ids = [entry["id"] for entry in plan["jobs"]] if plan["submitted"] else []
    if not ids:
        return []
    try:
        queue = subprocess.run(
            ["squeue", "--noheader", "--format=%i", f"--user={os.environ.get('USER', '')}"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return []
    return [i for i in ids if i in queue.stdout.split()]


def _setup() -> list[str]:
    """Returns lines before the command, with which the nodes find this package."""
    source = Path(__file__).resolve().parents[2]
    return [f'export PYTHONPATH="{source}${{PYTHONPATH:+:$PYTHONPATH}}"']


def _submit_one(executor: Any, command: list[str], parameters: dict[str, Any]) -> dict[str, Any]:
    executor.parameters = {}
    try:
        executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    except (NameError, ValueError, TypeError) as error:
        raise ConfigError(f"--slurm-set: {error}") from None
    try:
        job = executor.submit(TrainJob(command, os.getcwd()))
    except Exception as error:
        raise ConfigError(f"Slurm refused the job {parameters['job_name']}: {error}") from error
    script = executor.folder / f"{job.job_id}_submission.sh"
    return {
        "id": str(job.job_id),
        "dependency": parameters.get("dependency"),
        "command": command,
        "script": str(script),
    }


def _executor(folder: Path, dry_run: bool) -> Any:
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise ConfigError(
            "--slurm needs the package submitit: pip install 'submitit>=1.5'"
        ) from None

    class Written(SlurmExecutor):
        """Writes the scripts, and invents ids instead of submitting them."""

        count = 0

        @classmethod
        def affinity(cls) -> int:
            """Pretends that Slurm is installed."""
            return 1

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            Written.count += 1
            return [sys.executable, "-c", f"print('Submitted batch job {Written.count}')"]

    folder.mkdir(parents=True, exist_ok=True)
    kind = Written if dry_run else SlurmExecutor
    try:
        return kind(folder=folder.resolve())
    except RuntimeError as error:
        raise ConfigError(
            f"--slurm: {error} With --dry-run the scripts are written anywhere."
        ) from None
