"""What `tools/run_table.py` does after parsing."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mask_rcnn_repro.config import config_root, default_output_dir
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.provenance import device_info
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_repro.utils.threads import usable_cpus
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.evidence.ablation_file import (
    Ablation,
    planned_ablation,
    save_ablation,
    with_plan,
)
from mask_rcnn_tools.evidence.groups import RowGroup, group_of, short_keys
from mask_rcnn_tools.evidence.rows import Expectation, PaperRow
from mask_rcnn_tools.evidence.seed_plan import SeedPlan, load_plan
from mask_rcnn_tools.evidence.sweep_plot import draw_sweep
from mask_rcnn_tools.tables import cost
from mask_rcnn_tools.tables.ablation import Asked, finished_group, own_group
from mask_rcnn_tools.tables.choose import choose_rows, pick_rows
from mask_rcnn_tools.tables.collect import collect
from mask_rcnn_tools.tables.cost import Device, Estimate
from mask_rcnn_tools.tables.describe import format_group, format_plan, relative
from mask_rcnn_tools.tables.execute import Ending, Executor, Slot, visible_gpus
from mask_rcnn_tools.tables.jobs import Job, launcher
from mask_rcnn_tools.tables.named import find_named
from mask_rcnn_tools.tables.outcomes import table_outcomes
from mask_rcnn_tools.tables.plan import Plan, make_plan
from mask_rcnn_tools.tables.reproduce import check_recorded, report_repetition
from mask_rcnn_tools.tables.seeds import planned_seeds, write_seed_plan
from mask_rcnn_tools.tables.show import as_csv, as_json, format_learning, format_outcome
from mask_rcnn_tools.tables.sweep import parse_sweep
from mask_rcnn_tools.tables.trial import FILE, WORTH_SECONDS, best_count, trial_of
from mask_rcnn_tools.tables.usable_records import Found, find_records, jobs_to_run

_FOLDER = "tables"  # below the folder of all runs


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`.

    The status is 0 if every row has its record, 1 if one is missing or failed, 3 if a row differs
    from the record that it reproduces, and 130 or 143 if Ctrl-C or SIGTERM stopped the command.
    """
    try:
        run_command(run, args, "Stopped before anything was run.")
    except BrokenPipeError:  # such as `| head`
        sys.stderr.close()
        raise SystemExit(141) from None


def run(args: argparse.Namespace) -> int:
    """Runs, shows or collects a table, depending on the flags.

    Returns:
        The exit status.
    """
    results = _results(args.results)
    fixed = load_plan(results)
    groups = _groups(args)
    tables = [group.table for group in groups]
    rows = [row for group in groups for row in group.rows]
    plan = make_plan(rows, args.profile, _seeds_of_rows(args, groups, fixed), args.overrides)
    for place, group in enumerate(groups):
        if group.own:
            groups[place], plan = finished_group(group, plan)
    records = find_records(plan.output_root, results)
    if args.plan_seeds:
        if any(group.own for group in groups):
            raise ConfigError("--plan-seeds plans the paper's claims; of an ablation give --seeds.")
        if results is None:
            raise ConfigError("There is no results/ here for the plan; give --results FOLDER.")
        print(write_seed_plan(tables, args.profile, records, results))
        return 0
    if args.collect:
        return _collect(plan, records, results)
    # an own ablation's file of planned seeds is in its folder, whatever the overrides
    changes = [] if all(group.own for group in groups) else args.overrides
    folder = plan.output_root / _FOLDER / _folder_name(tables, args.profile, changes)
    plans = _plan_ablations(groups, plan, args.seeds or plan.seeds)
    if args.show:
        return _show(plan, groups, args, records, {}, fixed)
    jobs = jobs_to_run(plan, records, args.ignore_results or args.reproduce)
    device, slots = _slots(plan, args)
    known = [found.record for found in records]
    estimates = {job: cost.estimate(job, known, device, args.gpus_per_row) for job in jobs}
    title = f"{' '.join(tables)}{'' if args.profile == 'paper' else f' {args.profile}'}"
    parts = [
        format_group(group, plan, known, fixed, len(args.seeds or plan.seeds))
        for group in groups
        if group.own
    ]
    parts.append(format_plan(title, plan, jobs, records, estimates, device, slots))
    print("\n\n".join(parts), flush=True)
    if args.reproduce:
        check_recorded(plan, records)
    if not args.dry_run:
        for made, where in plans:
            save_ablation(made, where)
    extra = ["--num-gpus", str(args.gpus_per_row)] if args.gpus_per_row > 1 else []
    if args.slurm:
        return _slurm(args, jobs, estimates, folder, extra)
    if args.dry_run:
        return 0
    ending = Ending()
    if jobs:
        slots = _fastest(args, jobs, estimates, slots, folder, extra)
        executor = Executor(
            jobs,
            launcher(),
            slots,
            folder / "logs",
            {job: e.seconds for job, e in estimates.items()},
            title,
            extra,
        )
        ending = executor.run()
    records = find_records(plan.output_root, results)
    code = _show(plan, groups, args, records, ending.reasons, fixed, folder)
    if ending.stopped_by is not None:
        print("Stopped; the same command goes on from here.", file=sys.stderr, flush=True)
        return 128 + int(ending.stopped_by)
    if ending.reasons or code:
        return 1
    return report_repetition(plan, records) if args.reproduce else 0


def _seeds_of_rows(
    args: argparse.Namespace, groups: Sequence[RowGroup], fixed: SeedPlan
) -> dict[PaperRow, tuple[int, ...]]:
    """Returns the seeds of each row: given, or planned. Own rows get the most that are planned."""
    keys = [row.key for group in groups for row in group.rows]
    if args.seeds:
        return dict.fromkeys(keys, args.seeds)
    planned = planned_seeds([group.table for group in groups], args.profile, fixed)
    return {**dict.fromkeys(keys, max(planned.values(), key=len)), **planned}


def _groups(args: argparse.Namespace) -> list[RowGroup]:
    """Returns the tables of a command: those of the paper, and one ablation of all other names."""
    tables, named = find_named(args.tables)
    expectation = Expectation(args.metric or "", args.expect or "", args.margin)
    asked = Asked(args.control, expectation, parse_sweep(args.sweep))
    rows = pick_rows([*choose_rows(tables), *named], args.rows)
    printed = [] if asked.is_any else [r for r in rows if r not in named]
    own = [row for row in rows if row not in printed]
    by_table = {table: tuple(r for r in printed if r.table == table) for table in tables}
    groups = [group_of(table, found) for table, found in by_table.items() if found]
    return groups + ([own_group(own, asked, _name_of(args, tables))] if own else [])


def _name_of(args: argparse.Namespace, tables: Sequence[str]) -> str:
    """Returns the directory or tables that an ablation is named after, otherwise an empty text."""
    if args.rows or (tables and len(tables) < len(args.tables)):
        return ""
    folder = Path(args.tables[0]).expanduser()
    named = [] if len(args.tables) > 1 else [folder.resolve().name] if folder.is_dir() else []
    return "+".join(tables or named)


def _plan_ablations(
    groups: list[RowGroup], plan: Plan, seeds: Sequence[int]
) -> list[tuple[Ablation, Path]]:
    """What is fixed about own ablations, with their folders; the groups get it, in place."""
    made = []
    for place, group in enumerate(groups):
        if group.own:
            folder = plan.output_root / _FOLDER / _folder_name([group.table], plan.profile)
            planned = {p.row: p for p in plan.rows}
            runs = {
                row.id: {seed: job.hash for seed, job in planned[row].jobs.items()}
                for row in group.rows
            }
            ablation = planned_ablation(group, plan.profile, runs, seeds, folder)
            groups[place] = with_plan(group, ablation)
            made.append((ablation, folder))
    return made


def _results(given: str | None) -> Path | None:
    if given is None:
        folder = config_root().parent / "results"
        return folder if folder.is_dir() else None
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--results {given} is a file; give a folder of records.")
    return folder


def _folder_name(tables: Sequence[str], profile: str, overrides: Sequence[str] = ()) -> str:
    """Returns a name such as `2c@mini`, with a hash of overrides that change the results."""
    suffix = Path(default_output_dir("", profile, 0, overrides)).name.removeprefix("seed0")
    return "+".join(tables) + ("" if profile == "paper" else f"@{profile}") + suffix


def _slots(plan: Plan, args: argparse.Namespace) -> tuple[Device, list[Slot]]:
    """Returns the device of the runs, and the part of the machine for each concurrent run."""
    names = {str(job.cfg.train.device) for job in plan.jobs}
    on_cpu = not torch.cuda.is_available() or names == {"cpu"}
    if on_cpu and not args.slurm:
        if args.gpus_per_row > 1:
            raise ConfigError(
                f"--gpus-per-row is {args.gpus_per_row}, but runs are on the CPU here. Omit it; "
                "--jobs N runs rows side by side."
            )
        count = args.jobs or 1
        threads = None if count == 1 else max(1, usable_cpus() // count)
        facts = device_info("cpu")
        return Device("cpu", facts["name"]), [Slot(threads=threads)] * count
    if args.slurm:  # of nodes that are not known here
        side_by_side = [Slot()] * max(1, len(plan.jobs))
        if args.gpus_per_row == 0:
            return Device("cpu", "nodes of the cluster"), side_by_side
        return Device("cuda", f"{args.gpus_per_row} GPU(s) of the cluster"), side_by_side
    gpus = visible_gpus(torch.cuda.device_count())
    most = len(gpus) // args.gpus_per_row
    if most == 0 or (args.jobs or 1) > most:
        raise ConfigError(
            f"{args.jobs or 1} row(s) side by side with {args.gpus_per_row} GPU(s) each need more "
            f"than the {len(gpus)} GPUs of this machine. Lower --jobs or --gpus-per-row."
        )
    groups = [
        tuple(gpus[i * args.gpus_per_row : (i + 1) * args.gpus_per_row])
        for i in range(args.jobs or most)
    ]
    return Device("cuda", torch.cuda.get_device_name()), [Slot(gpus=group) for group in groups]


def _fastest(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    estimates: Mapping[Job, Estimate],
    slots: list[Slot],
    folder: Path,
    extra: Sequence[str],
) -> list[Slot]:
    """On a CPU, the slots with which most is done: those of --jobs, or fewer with more threads."""
    needs = {job: {stage for _, stage in job.inputs} for job in jobs}
    ready = [job for job in jobs if job.iterations and needs[job].isdisjoint(jobs)]
    work = sum(estimates[job].seconds for job in jobs)
    fixed = any(text.startswith("train.num_threads=") for text in args.overrides)
    if slots[0].threads is None or fixed or work < WORTH_SECONDS or not ready:
        return slots
    about = f"{device_info('cpu')['name']}, {ready[0].config_id} at {ready[0].profile}"
    print("Measuring how many runs side by side are fastest ...", flush=True)
    cores = usable_cpus()
    measure = trial_of(ready[0], launcher(), extra)
    count, why = best_count(len(slots), cores, folder / FILE, measure, about)
    print(why, flush=True)
    return [Slot(threads=max(1, cores // count) if count > 1 else None)] * count


def _slurm(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    estimates: Mapping[Job, Estimate],
    folder: Path,
    extra: Sequence[str],
) -> int:
    from mask_rcnn_tools.tables.slurm import PLAN_FILE, submit, waiting_ids

    folder = folder / "slurm"
    queued = [] if args.dry_run else waiting_ids(folder)
    if queued:
        raise ConfigError(
            f"Jobs of this table are in Slurm's queue already: {', '.join(queued)}. Wait for them, "
            f"or end them with `scancel {' '.join(queued)}`."
        )
    table = [*_this_command(args), "--show"]
    plan = submit(
        jobs,
        launcher(),
        folder,
        {job: e.seconds / 60 for job, e in estimates.items()},
        _options(args.slurm_set),
        args.gpus_per_row,
        extra,
        table,
        dry_run=args.dry_run,
    )
    for entry in plan["jobs"]:
        after = f"  {entry['dependency']}" if entry["dependency"] else ""
        print(f"{entry['id']:>8}  {entry['name']}{after}")
    done = "Written, not submitted" if args.dry_run else "Submitted"
    print(f"{done}: {len(plan['jobs'])} jobs; scripts and {PLAN_FILE} are in {folder}.")
    return 0


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Converts `KEY=VALUE` texts to parameters. Whole numbers become numbers."""
    options: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        options[key.strip().lstrip("-").replace("-", "_")] = (
            int(value) if value.isdigit() else value
        )
    return options


def _this_command(args: argparse.Namespace) -> list[str]:
    """Returns the command line that shows this table: without flags that only concern running."""
    words = [*launcher("table"), *args.tables]
    for flag in ("control", "metric", "expect", "margin"):
        if getattr(args, flag) is not None:
            words += [f"--{flag}", str(getattr(args, flag))]
    seeds = ",".join(map(str, args.seeds)) + "," if args.seeds else "planned"
    words += ["--profile", args.profile, "--seeds", seeds]
    for row in args.rows:
        words += ["--rows", row]
    if args.results:
        words += ["--results", args.results]
    if args.all_metrics:
        words.append("--all-metrics")
    return [*words, *args.overrides, *(["--sweep", *args.sweep] if args.sweep else [])]


def _collect(plan: Plan, records: Sequence[Found], results: Path | None) -> int:
    if results is None:
        raise ConfigError("There is no results/ here to collect into; give --results FOLDER.")
    written = 0
    for item in collect(plan, records, results):
        where = f" {relative(item.file)}" if item.file else ""
        print(f"{item.job.name}: {item.what}{where}")
        written += item.what == "written"
    print(f"{written} records written to {relative(results)}.")
    if written:
        print("`python tools/generate_docs` brings the generated pages up to date.")
    return 0


def _show(
    plan: Plan,
    groups: Sequence[RowGroup],
    args: argparse.Namespace,
    records: Sequence[Found],
    failed: Mapping[Job, str],
    fixed: SeedPlan,
    folder: Path | None = None,
) -> int:
    """Prints the tables. After runs, it also writes them to the directory of the logs."""
    outcomes = table_outcomes(plan, plan.seeds, records, failed, fixed, groups)
    every = args.all_metrics
    curves = [text for o in outcomes if o.own and (text := format_learning(o))]
    tables = [format_outcome(outcome, every) for outcome in outcomes]
    print("\n\n".join([*tables, *curves]), flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        markdown = [format_outcome(o, every, markdown=True) for o in outcomes]
        markdown += [f"```text\n{text}```\n" for text in curves]
        atomic_write_text(folder / "table.md", "\n".join(markdown))
        atomic_write_text(folder / "table.csv", as_csv(outcomes))
        content = {
            "command": shlex.join(_this_command(args)[1:]),
            "tables": [as_json(outcome, every) for outcome in outcomes],
        }
        atomic_write_text(folder / "table.json", json.dumps(content, indent=2) + "\n")
        plots = []
        for outcome in outcomes:
            for key, name in zip(outcome.swept, short_keys(outcome.swept), strict=True):
                if svg := draw_sweep(outcome, key):
                    plots.append(f"sweep-{name}.svg")
                    atomic_write_text(folder / plots[-1], svg)
        names = ", ".join([*plots, "table.csv"])
        print(f"Also in {folder / 'table.md'}, {names} and table.json.", flush=True)
    complete = all(not row.missing for outcome in outcomes for row in outcome.rows)
    return 0 if complete else 1
