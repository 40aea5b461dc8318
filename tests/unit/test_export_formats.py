"""Files of each format, opened and run: beside the model, on images of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.export.compare import compare_outputs, format_comparisons
from mask_rcnn_tools.export.formats import WRITERS, open_exported, smallest_side
from mask_rcnn_tools.export.graph import DetectorGraph
from mask_rcnn_tools.export.keypoint_decoding import decode_keypoints, map_keypoints
from mask_rcnn_tools.export.run import eager_outputs

from .export_helpers import image, with_keypoints

SUFFIX = {"torch_export": ".pt2", "torchscript": ".ts", "onnx": ".onnx"}
FRAMES = [image(*size, seed) for seed, size in enumerate([(65, 130), (96, 96), (70, 100)] * 3)]


def varying(kind: str) -> torch.nn.Module:
    """A model that detects nothing, one object or several, depending on the image."""
    model = with_keypoints(kind)
    best = [np.sort(eager_outputs(model, frame, False)["scores"])[::-1] for frame in FRAMES]
    candidates = [float(scores[0] + scores[1]) / 2 for scores in best]
    for threshold in sorted(candidates):
        counts = {min(int((scores > threshold).sum()), 3) for scores in best}
        if {0, 1, 3} <= counts:
            model.roi_heads.box_predictor.test_score_thresh = threshold
            return model
    raise AssertionError("no threshold gives 0, 1 and several detections")


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("torchscript", "fpn"),
        ("onnx", "fpn"),
        pytest.param("torch_export", "c5", marks=pytest.mark.slow),
        pytest.param("torch_export", "fpn", marks=pytest.mark.slow),
    ],
)
def test_files_give_what_the_model_gives(kind: str, network: str, tmp_path: Path) -> None:
    model = varying(network)
    decode = map_keypoints if kind == "torch_export" else decode_keypoints
    graph = DetectorGraph(model, decode=decode).eval()
    coarsest = {"fpn": 64, "c5": 32}[network]
    assert smallest_side(graph, kind) == (coarsest + 1 if kind == "torch_export" else 1)
    path = tmp_path / f"model{SUFFIX[kind]}"
    about = {"outputs": dict.fromkeys(graph.output_names, ""), "class_names": ["ä"]}
    WRITERS[kind](graph, FRAMES[1], path, about)
    run, metadata = open_exported(path)
    assert metadata == about
    threshold = model.roi_heads.box_predictor.test_score_thresh
    comparisons = [
        compare_outputs(
            eager_outputs(model, frame, False), run(frame.numpy()), frame.shape[1:], threshold, 100
        )
        for frame in FRAMES
    ]
    assert not any(c.problems for c in comparisons), format_comparisons(comparisons)
    assert {0, 1, 3} <= {min(c.got, 3) for c in comparisons}
    many = max(comparisons, key=lambda c: c.got)
    assert set(many.largest) == {"boxes", "scores", "masks", "keypoints"}


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suffix '.pth'.*torch_export: .pt2"):
        open_exported(tmp_path / "model.pth")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "model.ts"))
    with pytest.raises(ConfigError, match="has no metadata"):
        open_exported(tmp_path / "model.ts")


def outputs(*rows: tuple[float, int, float]) -> dict[str, np.ndarray]:
    """Detections given by left edge, class and score."""
    boxes = [[left, 0.0, left + 10, 10.0] for left, _, _ in rows]
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array([score for *_, score in rows], np.float32),
        "classes": np.array([kind for _, kind, _ in rows], np.int64),
    }


def test_comparison_by_hand() -> None:
    ours = outputs((0, 1, 0.9), (20, 1, 0.8), (40, 2, 0.7))

    def problems(theirs: dict[str, np.ndarray], limit: int = 100) -> list[str]:
        return compare_outputs(ours, theirs, (9, 9), 0.05, limit).problems

    assert problems(outputs((20.01, 1, 0.8), (0, 1, 0.9), (40, 2, 0.7))) == []  # another order
    assert problems(outputs((0.2, 1, 0.9), (20, 1, 0.8), (40, 2, 0.7))) == [
        "boxes differ by 0.2, allowed is 0.05"
    ]
    assert problems(outputs((0, 1, 0.9), (20, 1, 0.79), (40, 2, 0.7))) == [
        "scores differ by 0.01, allowed is 0.001"
    ]
    assert problems(outputs((0, 1, 0.9), (20, 1, 0.8), (40, 3, 0.7))) == [
        "2 detections, up to a score of 0.7000, have no counterpart"
    ]
    assert problems(outputs((0, 1, 0.9), (20, 1, 0.8))) == [
        "1 detections, up to a score of 0.7000, have no counterpart"
    ]
    assert problems(outputs()) == ["3 detections, up to a score of 0.9000, have no counterpart"]
    moved = outputs((0.2, 1, 0.9), (20, 1, 0.8), (40, 2, 0.7))
    assert compare_outputs(ours, moved, (900, 3000), 0.05, 100).problems == []  # of 3000 pixels
    assert problems(outputs((0, 1, float("nan")), (20, 1, 0.8), (40, 2, 0.7))) != []
    wrong = {**ours, "boxes": ours["boxes"].astype(np.float64)}
    assert "boxes is float64" in problems(wrong)[0]
    assert "outputs are" in problems({"boxes": ours["boxes"], "scores": ours["scores"]})[0]


def test_rounding_at_the_threshold_is_no_difference() -> None:
    at_threshold = outputs((0, 1, 0.9), (20, 1, 0.05001))
    result = compare_outputs(at_threshold, outputs((0, 1, 0.9)), (9, 9), 0.05, 100)
    assert (result.problems, result.borderline) == ([], 1)
    # the last of the detections that are kept may be another one of equal score
    last, other = outputs((0, 1, 0.9), (20, 1, 0.5)), outputs((0, 1, 0.9), (40, 1, 0.50001))
    assert compare_outputs(last, other, (9, 9), 0.05, 2).problems == []
    assert "2 detections" in compare_outputs(last, other, (9, 9), 0.05, 100).problems[0]


def test_masks_and_keypoints_are_compared() -> None:
    ours = outputs((0, 1, 0.9))
    mask, points = np.full((1, 4, 4), 0.5, np.float32), np.full((1, 2, 3), 0.5, np.float32)
    both = {**ours, "masks": mask, "keypoints": points}

    def problems(**changed: np.ndarray) -> list[str]:
        return compare_outputs(both, {**both, **changed}, (9, 9), 0.05, 100).problems

    assert problems() == []
    assert problems(masks=mask + 0.02) != []
    assert problems(keypoints=points + np.float32([0.2, 0, 0.1])) != []
    assert problems(keypoints=points + np.float32([1, 0, 0])) == []  # the other of two maxima
    assert problems(keypoints=points + np.float32([3, 0, 0])) != []
    pasted = np.zeros((1, 100, 100), bool)
    pasted[:, :50] = True
    flipped = pasted.copy()
    flipped[0, 0, :4] = False
    both = {**ours, "masks": pasted, "keypoints": points}
    assert problems(masks=flipped) == []
    flipped[0, :9] = False
    assert "masks differ by 0.18" in problems(masks=flipped)[0]
