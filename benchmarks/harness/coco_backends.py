"""COCO metrics by other packages, as backends beside the project's own.

Each function has the parameters of
:func:`~mask_rcnn_repro.evaluation.coco.backends.pycocotools_evaluation` and leaves its arrays to
the same summary, so equal arrays give equal numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.backends import COCO_BACKENDS
from mask_rcnn_repro.evaluation.coco.numbers import CocoNumbers, summarize

Results = Sequence[Mapping[str, Any]]

PACKAGES = {"ultrafast-pycocotools": "ultrafast_pycocotools", "vernier": "vernier"}
"""Backend to the module that it needs."""


_NO_BOX = [0.0, 0.0, 0.0, 0.0]


def register_peers(fast_evaluation: Any = None) -> tuple[list[str], list[str]]:
    """Registers the backends whose packages are installed.

    Args:
        fast_evaluation: Detectron2's `COCOeval_opt`, or None.

    Returns:
        Names of the registered backends, and names of the packages that are not installed.
    """
    functions: dict[str, Callable[..., CocoNumbers]] = {
        "ultrafast-pycocotools": ultrafast_metrics,
        "vernier": vernier_metrics,
    }
    missing = [p for p, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        del functions[name]
    if fast_evaluation is not None:
        functions = {"COCOeval_opt": _by_detectron2(fast_evaluation), **functions}
    COCO_BACKENDS.update(functions)
    return list(functions), missing


def _by_detectron2(evaluation_class: Any) -> Callable[..., CocoNumbers]:
    """The way of Detectron2's evaluator: pycocotools reads, its own class evaluates."""

    def metrics(gt: COCO, detections: Results, iou_type: str, **options: Any) -> CocoNumbers:
        with contextlib.redirect_stdout(io.StringIO()):
            results = gt.loadRes([dict(d) for d in detections])
            evaluation = evaluation_class(gt, results, iou_type)
            _set(evaluation.params, iou_type, options)
            evaluation.evaluate()
            evaluation.accumulate()
        return summarize(evaluation)

    return metrics


def ultrafast_metrics(gt: COCO, detections: Results, iou_type: str, **options: Any) -> CocoNumbers:
    """Computes the metrics by ultrafast-pycocotools."""
    import ultrafast_pycocotools

    truth = ultrafast_pycocotools.COCO(gt.dataset, verbose=False)
    results = truth.loadRes([dict(d) for d in detections])  # it writes into the dicts
    fast = ultrafast_pycocotools.COCOeval(
        truth, results, iou_type, print_function=lambda text: None
    )
    _set(fast.params, iou_type, options)
    fast.evaluate()
    fast.accumulate()
    return _summarized(fast.eval, iou_type, options)


def vernier_metrics(gt: COCO, detections: Results, iou_type: str, **options: Any) -> CocoNumbers:
    """Computes the metrics by vernier in its mode that reproduces pycocotools."""
    from vernier import instance

    common = {"parity_mode": "strict", "use_cats": True}
    limits = [20] if iou_type == "keypoints" else sorted(options["max_dets"])
    truth = orjson.dumps(gt.dataset)
    if iou_type == "keypoints":
        sigmas = dict.fromkeys(options["category_ids"], options["oks_sigmas"])
        grid = instance.evaluate_keypoints_grid(
            truth,
            detections,
            max_dets_per_image=limits[-1],
            sigmas=sigmas if options["oks_sigmas"] else {},
            **common,
        )
    elif iou_type == "segm":
        boxed = [{"bbox": _NO_BOX, **d} for d in detections]  # it wants one and does not use it
        grid = instance.evaluate_segm_grid(
            truth, boxed, max_dets_per_image=limits[-1], dt_area="mask", **common
        )
    else:
        grid = instance.evaluate_bbox_grid(
            truth, detections, max_dets_per_image=limits[-1], **common
        )
    found = grid.accumulate(limits)
    return _summarized({"precision": np.asarray(found.precision)}, iou_type, options)


def _summarized(
    arrays: Mapping[str, Any], iou_type: str, options: Mapping[str, Any]
) -> CocoNumbers:
    evaluation = COCOeval(iouType=iou_type)
    _set(evaluation.params, iou_type, options)
    evaluation.eval = dict(arrays)
    return summarize(evaluation)


def _set(params: Any, iou_type: str, options: Mapping[str, Any]) -> None:
    params.imgIds, params.catIds = options["image_ids"], options["category_ids"]
    if iou_type != "keypoints":
        params.maxDets = options["max_dets"]
    elif options["oks_sigmas"]:
        params.kpt_oks_sigmas = np.array(options["oks_sigmas"])
