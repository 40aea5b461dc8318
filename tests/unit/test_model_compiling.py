"""`train.compile`: the same numbers and names, one graph for maps of any size."""

import copy
import functools

import gpu_check_parts
import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.utils.events import EventStorage
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mask_rcnn_repro import get_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.norm import fold_frozen_norms
from mask_rcnn_repro.modeling.compiling import compile_parts
from mask_rcnn_repro.registration import register

from ..smoke.run_helpers import launch

CPU = torch.device("cpu")


def counting(monkeypatch, backend):
    """Counts graphs; a backend that writes no C++ code."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    return counter


class Net(nn.Module):
    """A backbone and one of the heads."""

    def __init__(self):
        super().__init__()
        norm = FrozenBatchNorm2d(4)
        norm.running_var.uniform_(0.5, 2)
        self.backbone = nn.Sequential(Conv2d(3, 4, 3, bias=False, norm=norm), nn.ReLU())
        self.roi_heads = nn.ModuleDict({"box_head": nn.Linear(4, 2)})
        fold_frozen_norms(self)

    def forward(self, x):
        return self.roi_heads["box_head"](self.backbone(x).mean((2, 3)))


@pytest.mark.parametrize(("which", "graphs"), [("heads", 1), ("all", 2)])
def test_compiled_parts(which, graphs, monkeypatch):
    counter = counting(monkeypatch, "aot_eager")
    torch.manual_seed(0)
    plain = Net()
    compiled = copy.deepcopy(plain)
    compile_parts(compiled, which, CPU)
    before = counter.frame_count
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for height, width in ((7, 9), (8, 6), (11, 13)):
        x = torch.rand(2, 3, height, width)
        for net in (plain, compiled):
            net(x).square().sum().backward()
        torch.testing.assert_close(compiled(x), plain(x))
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert counter.frame_count - before == graphs
    copied = copy.deepcopy(compiled)
    assert copied.roi_heads["box_head"]._compiled_call_impl is None
    copied.backbone[0].norm.bias.fill_(3.0)
    assert not torch.equal(copied(x), compiled(x))


def test_a_machine_that_cannot_compile(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Cannot find a working triton installation.\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ConfigError, match=r"triton installation. A GPU needs .*=off\.$"):
        compile_parts(Net(), "all", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["quickstart/mask_rcnn_r18_fpn", "table2a/r50_c4"])
def test_losses_and_gradients_of_a_row(row, monkeypatch):
    counter = counting(monkeypatch, "eager")
    register()
    cfg = get_config(row, "tiny", ["train.proposals=null", "train.init_from=null"])
    torch.manual_seed(0)
    plain = build_model(cfg, CPU).train()
    compiled = copy.deepcopy(plain)
    compile_parts(compiled, "all", CPU)
    graphs = []
    for height, width in ((128, 192), (160, 96), (192, 192)):
        data = gpu_check_parts.batch(height, width, people=False)
        for item in data:
            item["instances"].gt_classes %= cfg.model.roi_heads.num_classes
        found = []
        for net in (plain, compiled):
            net.zero_grad()
            torch.manual_seed(1)
            with EventStorage():
                losses = net(data)
            sum(losses.values()).backward()
            found.append((losses, [p.grad for p in net.parameters() if p.grad is not None]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
        graphs.append(counter.frame_count)
    # one more for the first other shape
    assert graphs[2] == graphs[1] <= graphs[0] + 1


@pytest.mark.slow
def test_a_run(tmp_path, monkeypatch):
    counter = counting(monkeypatch, "eager")
    launch(tmp_path, "train.compile=all", "train.draw=0").succeeded()
    assert counter.frame_count >= 3  # backbone, RPN head, box head
