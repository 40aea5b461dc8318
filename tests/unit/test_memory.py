"""Memory that runs out, and memory that must not grow."""

from __future__ import annotations

import os
import resource
import traceback
from collections.abc import Callable

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import nn

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.loop import within_memory
from mask_rcnn_repro.modeling import (
    FCNMaskHead,
    PaperStandardROIHeads,
    PerClassSigmoidMaskLoss,
    RoIPooler,
)
from mask_rcnn_repro.utils.out_of_memory import in_parts, is_out_of_memory


def heads() -> PaperStandardROIHeads:
    torch.manual_seed(0)
    head = FCNMaskHead(
        ShapeSpec(channels=64, height=14, width=14),
        num_classes=3,
        loss=PerClassSigmoidMaskLoss(),
        conv_dim=64,
    )
    made = PaperStandardROIHeads(
        box_in_features=["p2"],
        box_pooler=nn.Identity(),
        box_head=nn.Identity(),
        box_predictor=nn.Identity(),
        mask_in_features=["p2"],
        mask_pooler=RoIPooler(14, [0.25], 2, "ROIAlignV2"),
        mask_head=head,
        num_classes=3,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=None,
    )
    return made.eval()


def detections(count: int) -> Instances:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * 60
    boxes = Boxes(torch.cat([corner, corner + 20], dim=1))
    return Instances((96, 96), pred_boxes=boxes, pred_classes=torch.arange(count) % 3)


def features(images: int = 1) -> dict[str, torch.Tensor]:
    return {"p2": torch.rand(images, 64, 24, 24, generator=torch.Generator().manual_seed(2))}


@torch.no_grad()
@pytest.mark.parametrize("counts", [(7,), (5, 0, 9), (0,), (0, 0), (1, 30)])
def test_passes_give_what_one_pass_gives(counts):
    roi_heads, images = heads(), [detections(n) for n in counts]
    maps = features(len(counts))
    expected = [i.pred_masks for i in roi_heads.forward_with_given_boxes(maps, images)]
    roi_heads.instances_per_pass = 4
    for one, want in zip(roi_heads.forward_with_given_boxes(maps, images), expected, strict=True):
        torch.testing.assert_close(one.pred_masks, want)
        assert len(one) == len(want) and one.has("pred_classes")


def child(work: Callable[[], None], megabytes: int) -> int:
    """Runs work in a process that may take so much more memory; exit status 0 if it ends well."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20,) * 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.mark.slow
@torch.no_grad()
def test_very_many_instances_in_little_memory():
    """1500 detections take 75 MB as features, several times; in parts they fit into 100 MB."""
    roi_heads, many = heads(), detections(1500)
    roi_heads.forward_with_given_boxes(features(), [detections(2)])  # what is loaded once

    def at_once() -> None:
        roi_heads.instances_per_pass = 10**6
        with pytest.raises(RuntimeError) as caught:
            super(PaperStandardROIHeads.__mro__[1], roi_heads).forward_with_given_boxes(
                features(), [many]
            )
        assert is_out_of_memory(caught.value)

    def in_passes() -> None:
        roi_heads.instances_per_pass = 10**6  # halved until they fit
        found = roi_heads.forward_with_given_boxes(features(), [many])[0]
        assert found.pred_masks.shape == (1500, 1, 28, 28)

    assert child(at_once, 100) == 0
    assert child(in_passes, 100) == 0


def test_parts_are_halved_until_they_fit():
    sizes = []

    def work(start: int, stop: int) -> range:
        sizes.append(stop - start)
        if stop - start > 3:
            raise MemoryError
        return range(start, stop)

    assert [i for part in in_parts(work, 20, 16, "things") for i in part] == list(range(20))
    assert sizes[:4] == [16, 8, 4, 2] and set(sizes[3:]) == {2}
    assert in_parts(work, 0, 5, "things") == []

    def broken(start: int, stop: int) -> None:
        raise ValueError("not about memory")

    with pytest.raises(ValueError, match="not about"):
        in_parts(broken, 3, 3, "things")
    with pytest.raises(MemoryError):
        in_parts(lambda start, stop: (_ for _ in ()).throw(MemoryError()), 3, 3, "things")


def test_a_batch_that_is_too_large_goes_one_by_one():
    asked = []

    def predict(model, inputs):
        asked.append(len(inputs))
        if len(inputs) > 1:
            torch.empty(2**60, dtype=torch.uint8)  # PyTorch's own error
        return [{"of": i["image_id"]} for i in inputs]

    images = [{"image_id": i} for i in range(3)]
    assert within_memory(predict, nn.Identity(), images) == [{"of": i} for i in range(3)]
    assert asked == [3, 1, 1, 1]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_libraries_that_get_no_memory_of_a_gpu(message):
    def predict(model, inputs):
        if len(inputs) > 1:
            raise RuntimeError(message)
        return [{"of": i["image_id"]} for i in inputs]

    images = [{"image_id": i} for i in range(2)]
    assert within_memory(predict, nn.Identity(), images) == [{"of": 0}, {"of": 1}]


def test_an_image_that_is_too_large_is_named():
    def predict(model, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    image = {"file_name": "big.jpg", "image": torch.zeros(3, 40, 50)}
    with pytest.raises(DataError, match=r"big\.jpg.*40x50"):
        within_memory(predict, nn.Identity(), [image])


def test_other_errors_pass():
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(lambda m, i: torch.zeros(2, 3) @ torch.zeros(2, 3), nn.Identity(), [{}])
