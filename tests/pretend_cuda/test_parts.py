"""Parts of the project on the pretended device, whose values are those of the CPU."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import evaluation as evaluation_benchmark
import pytest
import roi_layers as roi_layer_benchmark
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.modeling import RoIPooler, optimize_for_inference
from mask_rcnn_repro.modeling.backbone.norm import fold_frozen_norms
from mask_rcnn_repro.records.provenance import device_info

from ..unit import test_model_mask_losses as mask_losses
from ..unit import test_model_roi_layers as roi_layers


@pytest.fixture(params=[False, True], ids=["free", "deterministic"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param, warn_only=True)
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("layer", roi_layers.LAYERS)
def test_roi_layers_of_a_gpu(layer, deterministic, waits):
    """The tests that need a GPU; torchvision's RoIAlign for deterministic algorithms fails them."""
    tests = roi_layers.TestOnCuda()
    tests.test_equal_to_cpu_in_values_and_gradients(layer)
    tests.test_no_rois(layer)


@pytest.mark.parametrize("loss", mask_losses.LOSSES)
def test_mask_losses_of_a_gpu(loss, waits, monkeypatch):
    # Detectron2's bit masks, which the loader does not make, would be cropped by a compiled kernel
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)
    mask_losses.test_losses_on_cuda_are_deterministic_and_those_of_the_cpu(loss)


def test_a_pooler_converts_boxes_once(waits):
    maps = [torch.rand(2, 3, 8 * s, 8 * s, device="cuda") for s in (4, 2)]
    boxes = [Boxes(torch.tensor([[0.0, 0, 20, 20]]).cuda()) for _ in range(2)]
    pooler = RoIPooler(7, [1 / 8, 1 / 16], canonical_box_size=32)
    waits.clear()
    pooler(maps, boxes)
    kinds = sorted(kind for kind, _, _ in waits.elements())
    assert kinds == ["to cpu"]  # where each level ends


def block() -> nn.Module:
    torch.manual_seed(0)
    made = BottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN")
    for module in made.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    return made


def test_an_optimized_block_copies_no_shortcut(waits):
    made = nn.Sequential(block()).eval().cuda()
    x = torch.rand(1, 8, 6, 6, device="cuda").to(memory_format=torch.channels_last)
    before, fast = x.clone(), optimize_for_inference(made)
    waits.operations.clear()
    with torch.no_grad():
        y = fast(x)
    copies = sum(waits.operations[f"aten::{name}"] for name in ("clone", "copy_", "_to_copy"))
    assert copies == 0 and torch.equal(x, before)
    torch.testing.assert_close(y, made(x))


def test_frozen_norms_are_folded_once_until_they_change(waits):
    conv = Conv2d(3, 4, 3, bias=False, norm=FrozenBatchNorm2d(4)).cuda()
    stock = copy.deepcopy(conv)
    fold_frozen_norms(conv)
    x = torch.rand(1, 3, 5, 5, device="cuda")

    def computed(x):
        waits.operations.clear()
        y = conv(x)
        counted = waits.operations["aten::rsqrt"]
        torch.testing.assert_close(y, stock(x))
        return counted

    assert [computed(x), computed(x)] == [1, 0]
    for each in (conv, stock):
        each.norm.running_var.fill_(3.0)
    assert [computed(x), computed(x)] == [1, 0]
    state = {name: value + 1 for name, value in stock.state_dict().items()}
    for each in (conv, stock):
        each.load_state_dict(state)
    assert [computed(x), computed(x)] == [1, 0]
    conv, stock = copy.deepcopy(conv).double(), stock.double()
    assert [computed(x.double()), computed(x.double())] == [1, 0]


def test_the_record_says_what_uses_tf32(waits, monkeypatch):
    assert device_info("cpu").get("tf32") is None
    off, on = (SimpleNamespace(allow_tf32=used) for used in (False, True))
    monkeypatch.setattr(torch.backends, "cudnn", on)
    monkeypatch.setattr(torch.backends.cuda, "matmul", off)
    assert device_info("cuda")["tf32"] == ["convolution"]
    monkeypatch.setattr(torch.backends.cuda, "matmul", on)
    assert device_info("cuda")["tf32"] == ["matmul", "convolution"]


def test_attention_is_deterministic_where_it_is_asked_for(waits):
    from mask_rcnn_repro.engine.seeding import make_deterministic

    try:
        make_deterministic()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    functional.scaled_dot_product_attention(*torch.rand(3, 1, 2, 4, device="cuda"))


def test_both_sides_of_a_benchmark_run_on_the_gpu(waits, monkeypatch, tmp_path):
    commands = []

    class Enough(Exception):
        pass

    def timed(command, folder, threads):
        commands.append(command)
        if "train_net.py" in command[1]:
            raise Enough
        return 1.0, 'METRICS {"bbox": 1.0, "segm": 1.0}'

    monkeypatch.setattr(evaluation_benchmark, "timed", timed)
    monkeypatch.setattr(evaluation_benchmark, "subset", lambda *args: (tmp_path, tmp_path))
    monkeypatch.setattr(sys, "argv", ["evaluation", "--device", "cuda", "--checkpoint", "x.pth"])
    with pytest.raises(Enough):
        evaluation_benchmark.main()
    stock, *_, ours = commands
    assert stock[2] == "stock" and stock[-2] == "cuda" and "train.device=cuda" in ours
    # both sides would call one operator
    monkeypatch.setattr(sys, "argv", ["roi_layers", "--device", "cuda"])
    with pytest.raises(SystemExit):
        roi_layer_benchmark.main()
