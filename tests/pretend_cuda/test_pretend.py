"""The pretended device itself: what it refuses, and what it counts as a wait."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import nms

from .pretend import MixedDevices


def on_gpu(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


def test_tensors_know_where_they_are(waits):
    x = on_gpu(2, 3)
    assert x.is_cuda and x.device == torch.device("cuda", 0)
    parts = (x[0], x.T, x + 1, torch.zeros_like(x), x.new_zeros(2), copy.deepcopy(x), x.double())
    assert all(part.is_cuda for part in parts)
    assert torch.ones(2).is_cpu and not torch.zeros_like(x, device="cpu").is_cuda
    assert torch.tensor([x.numel()]).to(x).is_cuda
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to("cuda")
    assert all(t.is_cuda for t in model.state_dict().values())
    model(x).sum().backward()
    assert all(p.grad.is_cuda for p in model.parameters())


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + torch.ones(3),
        lambda x: x @ torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
        lambda x: torch.ones(3)[x[0].long()],
        lambda x: x.index_put_((torch.tensor([0]),), torch.ones(1, 3)),
        lambda x: torch.ones(3).add_(x[0, 0]),
        lambda x: nn.Linear(3, 4)(x),
        lambda x: x.numpy(),
    ],
)
def test_devices_cannot_be_mixed(operation, waits):
    with pytest.raises(MixedDevices):
        operation(on_gpu(2, 3))
    operation(torch.ones(2, 3))


def test_what_a_gpu_allows_is_allowed(waits):
    x = on_gpu(2, 3)
    assert all(y.is_cuda for y in (x * torch.tensor(2.0), x[torch.tensor([1])], x + 1))
    x[0] = torch.zeros(3)
    x.index_put_((torch.tensor([0]),), torch.tensor(1.0))
    torch.optim.SGD([x.requires_grad_()], 0.1, fused=True).step()


@pytest.mark.parametrize(
    ("operation", "kinds"),
    [
        (lambda x: x.item(), ["item"]),
        (lambda x: bool(x > 0), ["item"]),
        (lambda x: f"{x[0]:.2f}", ["to cpu"]),
        (lambda x: x.tolist(), ["to cpu"]),
        (lambda x: x.cpu(), ["to cpu"]),
        (lambda x: torch.ones(1).copy_(x), ["to cpu"]),
        (lambda x: x.nonzero(), ["nonzero"]),
        (lambda x: x[x > 0], ["nonzero"]),
        (lambda x: x.repeat(2).index_put_((x.repeat(2) > 0,), x.repeat(2)), ["nonzero"]),
        (lambda x: x[torch.tensor([0])], ["to cuda"]),
        (lambda x: torch.tensor([1.0], device="cuda"), ["to cuda"]),
        (lambda x: torch.ones(1).to(x), ["to cuda"]),
        (lambda x: torch.ones(1).to(x.device, non_blocking=True), ["to cuda"]),
        (lambda x: nms(torch.ones(1, 4).cuda(), x, 0.5), ["nms", "to cuda"]),
        (lambda x: x.repeat_interleave(x.long()), ["repeat_interleave"]),
        (lambda x: torch.cuda.synchronize(), ["synchronize"]),
        (lambda x: torch.ones(1).pin_memory().to(x.device, non_blocking=True), []),
        (lambda x: torch.ones(1, device=x.device) + x.to(x.device).clone(), []),
        (lambda x: x.masked_fill_(x > 0, 0), []),
        (lambda x: x.index_put_((x > 0,), torch.tensor(0.0, device=x.device) * 0), ["to cuda"]),
    ],
)
def test_waits(operation, kinds, waits):
    x = on_gpu(1)
    assert not waits
    operation(x)
    assert sorted(kind for kind, _, _ in waits.elements()) == kinds


def test_the_device_ends_with_its_context(waits):
    assert torch.cuda.is_available()
    assert torch.amp.GradScaler("cuda").is_enabled()
