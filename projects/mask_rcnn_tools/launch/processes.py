"""Start the processes of a run: with `--num-gpus`, under `torchrun`, or only this one.

Exit statuses (docs/long_runs.md): 0 for success, 1 for an error in the program or in another
process, 2 for a user-fixable error, 128 + k for a stop by signal k.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

from mask_rcnn_repro.config.schema import train_defaults
from mask_rcnn_repro.errors import ConfigError, StorageError, UserError
from mask_rcnn_repro.utils.disk_errors import full_storage
from mask_rcnn_repro.utils.interruption import SIGNALS, Interrupted, stopping_on_signals
from mask_rcnn_repro.utils.threads import choose_threads
from mask_rcnn_tools.launch.fresh_store import fresh_store

Main = Callable[[argparse.Namespace], None]


def under_torchrun() -> bool:
    """Returns whether `torchrun`, or a launcher that sets its variables, started this process."""
    return "WORLD_SIZE" in os.environ and "LOCAL_RANK" in os.environ


def run_distributed(main: Main, args: argparse.Namespace, timeout: float | None = None) -> None:
    """Calls `main(args)` in every process of the run and waits for all of them.

    Under `torchrun` (which sets `WORLD_SIZE`, `RANK`, `LOCAL_RANK`) this process is one of them.
    Otherwise this function starts `args.num_gpus` processes, on the CPU with gloo without GPUs. All
    of them stop on signals, see :mod:`~mask_rcnn_repro.utils.interruption`. Processes that
    `torchrun` restarts after an error resume.

    Args:
        main: Importable function; it is pickled. Raises `UserError` for user-fixable errors.
        args: The parsed command line.
        timeout: Seconds that a process waits for the others. Default of `train.process_timeout`.

    Raises:
        ConfigError: There are fewer GPUs than processes, or `--num-gpus` is given under `torchrun`.
        StorageError: A disk is full, or a quota or file size limit is reached.
        SystemExit: A signal stopped the process, or a signal or an error stopped one of several.
    """
    if timeout is None:
        timeout = train_defaults()["process_timeout"]
    if under_torchrun():
        if args.num_gpus != 1 or args.num_machines != 1:
            raise ConfigError(
                "--num-gpus and --num-machines were given under torchrun, which starts the "
                "processes itself. Use either torchrun's options or these."
            )
        _run_under_torchrun(main, args, timeout)
        return
    world_size = args.num_gpus * args.num_machines
    if world_size > 1 and torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()} "
            "CUDA devices. To run that many processes on the CPU, set CUDA_VISIBLE_DEVICES=''."
        )
    if world_size <= 1:  # --num-gpus 0 is Detectron2's way to say CPU
        _call(main, args)
        return
    _limit_threads(args.num_gpus)
    try:
        with _passing_signals_on():
            launch(
                _guarded,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args, timeout),
                timeout=datetime.timedelta(seconds=timeout),
            )
    except torch.multiprocessing.ProcessExitedException as error:
        if error.exit_code >= 0:  # it has printed the reason
            raise SystemExit(error.exit_code) from None
        print(f"error: {error}. {_going_on(args)}", file=sys.stderr, flush=True)
        raise SystemExit(128 - error.exit_code) from None


def _call(main: Main, args: argparse.Namespace) -> None:
    """Runs `main` with signals handled, and explains full disks and lost connections."""
    with stopping_on_signals():
        try:
            main(args)
        except Interrupted as stop:
            if comm.is_main_process():
                message = f"Stopped by {stop.signal.name}. {_going_on(args)}"
                print(message, file=sys.stderr, flush=True)
            raise
        except (OSError, RuntimeError) as error:
            if isinstance(error, UserError):
                raise
            if full_storage(error) is not None:
                raise StorageError(
                    f"Writing failed: {full_storage(error)}. Files that were complete are "
                    f"untouched. Free some space. {_going_on(args)}"
                ) from error
            if comm.get_world_size() > 1 and _is_lost_connection(error):
                message = (
                    f"error (process {comm.get_rank()}): another process of this run has ended or "
                    f"cannot be reached: {str(error).splitlines()[0]} {_going_on(args)}"
                )
                print(message, file=sys.stderr, flush=True)
                raise SystemExit(1) from None
            raise


def _going_on(args: argparse.Namespace) -> str:
    """Returns the advice how to continue after a stop."""
    if hasattr(args, "resume") and not getattr(args, "eval_only", False):
        return "--resume continues from the last checkpoint."
    return "The same command continues from what exists."


def _is_lost_connection(error: Exception) -> bool:
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError | ConnectionError):
        return True
    return any(word in str(error) for word in ("closed by peer", "reset by peer", "gloo/transport"))


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Passes signals on to the processes that this one has started and waits for."""

    def pass_on(number: int, frame: object) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _guarded(main: Main, args: argparse.Namespace, timeout: float) -> None:
    """Ends a child process that has a user-fixable error with its message, without traceback."""
    _limit_objects(timeout)
    try:
        _call(main, args)
    except UserError as error:
        print(f"error (process {comm.get_rank()}): {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def _run_under_torchrun(main: Main, args: argparse.Namespace, timeout: float) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    use_cuda = torch.cuda.is_available()
    if use_cuda:
        if local_world_size > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started {local_world_size} processes here, but there are "
                f"{torch.cuda.device_count()} CUDA devices. To run on the CPU, set "
                "CUDA_VISIBLE_DEVICES=''."
            )
        torch.cuda.set_device(local_rank)
    _limit_threads(local_world_size)
    limit = datetime.timedelta(seconds=timeout)
    store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=limit)))
    dist.init_process_group(
        "nccl" if use_cuda else "gloo",
        store=fresh_store(store, rank, world_size, limit),
        rank=rank,
        world_size=world_size,
        timeout=limit,
    )
    try:
        comm.create_local_process_group(local_world_size)
        _limit_objects(timeout)
        comm.synchronize()
        # a host that replaces a lost one has a count of 0
        restarts = max(comm.all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))))
        if restarts and hasattr(args, "resume") and not args.eval_only:
            args.resume = True  # the command line is still that of the first start
            if comm.is_main_process():
                print(f"Restart {restarts} by torchrun: resuming.", flush=True)
        _call(main, args)
    finally:
        dist.destroy_process_group()


def _limit_objects(timeout: float) -> None:
    """Limits the exchange of objects. Beside NCCL, Detectron2 has a gloo group with 30 minutes."""
    # PyTorch 2.14 has renamed the function
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(datetime.timedelta(seconds=timeout), comm._get_global_gloo_group())


def _limit_threads(processes: int) -> None:
    """Divides the cores among the processes of this host."""
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, choose_threads(None).count // processes)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
