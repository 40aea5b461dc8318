"""Starting the processes of a run: by `--num-gpus`, under `torchrun`, or just this one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

from mask_rcnn_repro.errors import ConfigError, UserError

Main = Callable[[argparse.Namespace], None]


def run_distributed(main: Main, args: argparse.Namespace) -> None:
    """Calls `main(args)` in every process of the run and waits for all of them.

    Under `torchrun` (which sets `WORLD_SIZE`, `RANK`, `LOCAL_RANK`) this process is one of them.
    Otherwise `args.num_gpus` processes are started on this machine, on the CPU with gloo where
    there is no GPU.

    Args:
        main: Importable function (it is pickled); raises `UserError` for a user's mistakes.
        args: The parsed command line.

    Raises:
        ConfigError: If more processes are asked for than there are GPUs, or both ways are mixed.
        SystemExit: With code 2 if a process stopped with a `UserError`.
    """
    if "WORLD_SIZE" in os.environ and "LOCAL_RANK" in os.environ:
        if args.num_gpus != 1 or args.num_machines != 1:
            raise ConfigError(
                "--num-gpus and --num-machines were given under torchrun, which starts the "
                "processes itself. Use either torchrun's options or these."
            )
        _run_under_torchrun(main, args)
        return
    world_size = args.num_gpus * args.num_machines
    if world_size > 1 and torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()} "
            "CUDA devices. To run that many processes on the CPU, set CUDA_VISIBLE_DEVICES=''."
        )
    if world_size <= 1:  # --num-gpus 0 is Detectron2's way to say CPU
        main(args)
        return
    _limit_threads(args.num_gpus)
    try:
        launch(
            _guarded,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except torch.multiprocessing.ProcessExitedException as error:
        raise SystemExit(error.exit_code) from None


def _guarded(main: Main, args: argparse.Namespace) -> None:
    """A user's mistake ends a child with its message alone, not with a traceback."""
    try:
        main(args)
    except UserError as error:
        print(f"error (process {comm.get_rank()}): {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def _run_under_torchrun(main: Main, args: argparse.Namespace) -> None:
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
    else:
        _limit_threads(local_world_size)
    dist.init_process_group("nccl" if use_cuda else "gloo")
    try:
        comm.create_local_process_group(local_world_size)
        comm.synchronize()
        main(args)
    finally:
        dist.destroy_process_group()


def _limit_threads(processes: int) -> None:
    """Shares the cores: several processes with a thread for every core each would only wait."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
