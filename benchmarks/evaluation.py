"""Whole evaluation from the start of the process to the table, on images of the embedded data.

Detectron2: a script of its own parts: the same network, loader with its ``DatasetMapper``,
``inference_on_dataset`` and ``COCOEvaluator``. There are two references: the evaluator with
pycocotools, and with Detectron2's compiled COCOeval_opt, its default, which is built for the
benchmark by `--detectron2-source`. Ours: ``train_net.py --eval-only``. All in processes of their
own, on the same weights and images at the profile `mini`, in turns; the embedded data exist before.
Detectron2's precision is float32. Ours is float32 in part "fp32", and the configuration's own (bf16
at `mini`) in part "bf16" on CPUs that have bf16.

Run: python benchmarks/evaluation.py --threads 2 --detectron2-source FOLDER      (about 5 minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "enhanced_r50/e2e"  # trained jointly: takes images alone


def parse() -> tuple[Any, argparse.Namespace]:
    """The command line, and the benchmark."""
    from harness import Benchmark
    from harness.detectron2_extension import add_source_option

    bench = Benchmark("evaluation", "Whole evaluation", __doc__, parts=("fp32", "bf16"))
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--config", default=CONFIG, help="a config that is trained jointly")
    parser.add_argument(
        "--checkpoint",
        help="its weights at `mini`; by default those of its run in output/, else random ones",
    )
    add_source_option(parser)
    parser.set_defaults(repeats=1)
    return bench, bench.parse(parser)


def random_weights(config: str, folder: Path) -> Path:
    """Weights of a model as it is before training, for want of trained ones."""
    import torch
    from detectron2.config import instantiate

    from mask_rcnn_repro import get_config, register

    register()
    torch.manual_seed(0)
    model = instantiate(get_config(config, profile="mini").model)
    torch.save({"model": model.state_dict(), "iteration": 0}, folder / "random.pth")
    return folder / "random.pth"


def subset(config: str, images: int, folder: Path) -> tuple[Path, str]:
    """An annotation file with the first images of a config's test data, and their directory."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mask_rcnn_repro import get_config, register

    register()
    name = get_config(config, profile="mini").dataloader.test.dataset.names
    DatasetCatalog.get(name)  # makes the data
    source = Path(MetadataCatalog.get(name).json_file)
    data = json.loads(source.read_text())
    data["images"] = data["images"][:images]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    (folder / "subset.json").write_text(json.dumps(data))
    return folder / "subset.json", str(MetadataCatalog.get(name).image_root)


def run_stock(
    config: str,
    checkpoint: str,
    annotations: str,
    image_root: str,
    threads: str,
    device: str,
    extension: str,
) -> None:
    """The stock script, in its own process; with COCOeval_opt if there is an extension."""
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import instantiate
    from detectron2.data import (
        DatasetMapper,
        build_detection_test_loader,
        get_detection_dataset_dicts,
    )
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.utils.logger import setup_logger

    from mask_rcnn_repro import get_config, register

    if extension:
        from harness.detectron2_extension import fast_evaluation

        fast_evaluation(extension)
    setup_logger()
    torch.set_num_threads(int(threads))
    register()
    register_coco_instances("subset", {}, annotations, image_root)
    cfg = get_config(config, profile="mini")
    model = instantiate(cfg.model)
    # the network is the same; these two are Detectron2's operators
    for name in ("box_pooler", "mask_pooler"):
        setattr(model.roi_heads, name, _stock_pooler(getattr(model.roi_heads, name), ROIPooler))
    model.to(device).eval()
    DetectionCheckpointer(model).load(checkpoint, checkpointables=[])
    mapper = cfg.dataloader.test.mapper
    augmentations = [instantiate(a) for a in mapper.augmentations]
    loader = build_detection_test_loader(
        get_detection_dataset_dicts("subset", filter_empty=False),
        mapper=DatasetMapper(False, augmentations=augmentations, image_format=mapper.image_format),
        num_workers=cfg.dataloader.test.num_workers,
    )
    with tempfile.TemporaryDirectory() as folder:
        evaluator = COCOEvaluator("subset", output_dir=folder, use_fast_impl=bool(extension))
        assert evaluator._use_fast_impl == bool(extension)
        metrics = inference_on_dataset(model, loader, evaluator)
    print_csv_format(metrics)
    print("METRICS", json.dumps({task: metrics[task]["AP"] for task in ("bbox", "segm")}))


def _stock_pooler(pooler: Any, kind: Any) -> Any:
    layer = pooler.level_poolers[0]
    scales = [level.spatial_scale for level in pooler.level_poolers]
    kind_name = "ROIAlignV2" if layer.half_pixel else "ROIAlign"
    return kind(
        pooler.output_size,
        scales,
        layer.sampling_ratio,
        kind_name,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )


def timed(command: list[str], folder: Path, threads: str) -> tuple[float, str]:
    """Seconds of a process and what it printed; an error if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "PYTHONWARNINGS": "ignore"}
    environment["OMP_NUM_THREADS"] = threads
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return seconds, done.stdout


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    if sys.argv[1:2] == ["stock"]:
        run_stock(*sys.argv[2:])
        return
    bench, args = parse()
    import torch

    from harness.detectron2_extension import find_extension
    from mask_rcnn_repro.utils.precision import cpu_has_bf16

    extension, why_not = find_extension(args.detectron2_source)
    images = 8 if bench.quick else args.images
    rounds = 1 if bench.quick else args.repeats
    threads = str(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = ROOT / "output" / f"{args.config}@mini" / "seed0" / "model_final.pth"
        given = args.checkpoint or (trained if trained.is_file() else None)
        checkpoint = str(Path(given).resolve() if given else random_weights(args.config, folder))
        annotations, image_root = subset(args.config, images, folder)
        stock = [sys.executable, str(Path(__file__).resolve()), "stock", args.config, checkpoint]
        stock += [str(annotations), image_root, threads, bench.device.type]
        ours = [sys.executable, str(ROOT / "train_net.py"), "--config-file", args.config]
        ours += ["--profile", "mini", "--eval-only", f"train.num_threads={threads}"]
        ours += [f"train.init_checkpoint={checkpoint}", f"train.device={bench.device.type}"]
        ours += [f"dataloader.test.dataset.json={annotations}"]
        ours += ["dataloader.test.dataset.names=embedded_subset"]
        ours += [f"dataloader.test.dataset.image_root={image_root}"]
        weights = "Weights: " + ("trained." if given else "random, so AP says nothing.")
        for part in bench.parts():
            bf16 = part == "bf16"
            if bf16 and bench.device.type == "cpu" and not cpu_has_bf16():
                print("bf16 is not measured: this CPU has no bf16 instructions.", flush=True)
                continue
            name, root = ("ours, bf16" if bf16 else "ours"), folder / part
            commands = {"Detectron2, pycocotools": [*stock, ""]}
            if extension:
                commands["Detectron2, COCOeval_opt"] = [*stock, extension]
            commands[name] = [*ours, f"train.amp.enabled={bf16}", f"train.output_root={root}"]
            work = f"{images} images, {args.config} at mini{', bf16' if bf16 else ''}"
            compare(bench, work, commands, rounds, threads, root)
            if extension:
                bench.beside(work, "Detectron2, COCOeval_opt", {name: None})
            else:
                bench.note(why_not)
            bench.note(weights)
    bench.finish()


def compare(
    bench: Any, work: str, commands: dict[str, list[str]], rounds: int, threads: str, root: Path
) -> None:
    """Runs the commands in turns; the last of them is ours, with `root` as its output root."""
    times: dict[str, list[float]] = {contender: [] for contender in commands}
    found: dict[str, dict[str, float]] = {}
    *_, ours = commands
    for _ in range(rounds):
        for contender, command in commands.items():
            seconds, text = timed(command, root.parent, threads)
            times[contender].append(seconds)
            if contender != ours:
                line = next(x for x in text.splitlines() if x.startswith("METRICS "))
                found[contender] = json.loads(line.removeprefix("METRICS "))
    metrics = json.loads(next(root.rglob("record.json")).read_text())["metrics"]
    found[ours] = {task: metrics[task]["AP"] for task in ("bbox", "segm")}
    goals = {"ours": 1.6} if ours == "ours" else {}
    bench.add(work, times, reference="Detectron2, pycocotools", goals=goals)
    tasks = {"bbox": "box AP", "segm": "mask AP"}
    bench.equality(
        work,
        "; ".join(
            f"{contender}: "
            + ", ".join(f"{label} {values[task]:.3f}" for task, label in tasks.items())
            for contender, values in found.items()
        ),
    )


if __name__ == "__main__":
    main()
