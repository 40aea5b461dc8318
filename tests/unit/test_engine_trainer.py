"""The training step: accumulation, mixed precision, loss checks, seeding."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.errors import ConfigError, NonFiniteLossError
from mask_rcnn_repro.utils import precision
from mask_rcnn_repro.utils.precision import autocast_context

CPU = torch.device("cpu")


class Regression(nn.Module):
    """Squared error of a line, as a detection model returns it; `scale` can poison it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dtypes = []

    def forward(self, batch):
        x = torch.stack([d["x"] for d in batch])
        out = self.linear(x)
        self.dtypes.append(out.dtype)
        scale = torch.tensor([d.get("scale", 1.0) for d in batch])
        return {
            "loss_a": (out[:, 0].float() ** 2 * scale).mean(),
            "loss_b": out.float().abs().mean(),
        }


def examples(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(3, generator=generator), "file_name": f"{i}.jpg"} for i in range(count)
    ]


def run(batches, iterations, **arguments):
    torch.manual_seed(0)
    model = Regression()
    trainer = Trainer(
        model, batches, torch.optim.SGD(model.parameters(), 0.1), seed=0, device=CPU, **arguments
    )
    trainer.train(0, iterations)
    return model


def test_accumulated_micro_batches_equal_one_batch():
    data = examples(8)
    whole = run([data, data[::-1]], 2)
    parts = run([data[:4], data[4:], data[4:][::-1], data[:4][::-1]], 2, accumulate=2)
    torch.testing.assert_close(whole.linear.weight, parts.linear.weight)


@pytest.mark.parametrize(("instructions", "used"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_used_on_cpus_that_have_it(instructions, used, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: instructions)
    model = run([examples(4)], 1, amp_enabled=True)
    assert model.dtypes == [used]
    assert model.linear.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("machine", "onednn", "instructions", "expected"),
    [
        ("x86_64", True, True, True),
        ("x86_64", True, False, False),  # AVX512 alone, such as Ice Lake
        ("AMD64", False, False, False),
        ("aarch64", True, False, True),
    ],
)
def test_instructions_for_bf16(machine, onednn, instructions, expected, monkeypatch):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert precision.cpu_has_bf16.__wrapped__() is expected


def test_fp16_on_cpu_says_what_to_do():
    with pytest.raises(ConfigError, match="bf16"):
        autocast_context(CPU, True, "fp16")


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_loss_names_iteration_and_images_and_keeps_the_weights(poison):
    good, bad = examples(2), examples(2, seed=1)
    bad[1]["scale"] = poison
    torch.manual_seed(0)
    model = Regression()
    trainer = Trainer(
        model, [good, bad], torch.optim.SGD(model.parameters(), 0.1), seed=0, device=CPU
    )
    reference = run([good], 1)
    with pytest.raises(NonFiniteLossError, match=r"iteration 1(.|\n)*loss_a(.|\n)*1\.jpg"):
        trainer.train(0, 2)
    assert torch.equal(model.linear.weight, reference.linear.weight)


def test_random_numbers_depend_on_seed_iteration_and_rank_alone():
    def draw(*key):
        seed_everything(*key)
        return torch.rand(3).tolist()

    assert draw(0, 5, 0) == draw(0, 5, 0)
    assert len({tuple(draw(*key)) for key in [(0, 5, 0), (1, 5, 0), (0, 6, 0), (0, 5, 1)]}) == 4


def test_losses_logged_are_the_mean_over_micro_batches():
    data = examples(4)
    torch.manual_seed(0)
    model = Regression()
    with torch.no_grad():
        expected = (model([data[0], data[1]])["loss_a"] + model([data[2], data[3]])["loss_a"]) / 2
    trainer = Trainer(
        model,
        [data[:2], data[2:]],
        torch.optim.SGD(model.parameters(), 0.0),
        seed=0,
        device=CPU,
        accumulate=2,
    )
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.max_iter = 1
        trainer.run_step()
        logged, _ = trainer.storage.latest()["loss_a"]
    assert logged == pytest.approx(expected.item())


def nan_gradient(model, parameter="linear.weight"):
    dict(model.named_parameters())[parameter].register_hook(lambda g: g * float("nan"))


def test_gradients_that_are_not_finite_leave_the_weights_alone():
    torch.manual_seed(0)
    model = Regression()
    before = model.linear.weight.detach().clone()
    nan_gradient(model)
    trainer = Trainer(
        model, [examples(2)], torch.optim.SGD(model.parameters(), 0.1), seed=0, device=CPU
    )
    with pytest.raises(NonFiniteLossError, match=r"gradients of linear\.weight(.|\n)*0\.jpg"):
        trainer.train(0, 1)
    assert torch.equal(model.linear.weight, before)
    assert trainer.completed_iters == 0


def test_large_gradients_are_no_error():
    """Each is finite, the sum of their squares is not."""
    model = Regression()
    for p in model.parameters():
        p.register_hook(lambda g: torch.full_like(g, 1e30))
    optimizer = torch.optim.SGD(model.parameters(), 1e-30)
    Trainer(model, [examples(2)], optimizer, seed=0, device=CPU).train(0, 1)


def scaled(batches, steps, **hooks):
    """A trainer with loss scaling, as fp16 has it, on the CPU."""
    torch.manual_seed(0)
    model = Regression()
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), 0.1), seed=0, device=CPU)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    return trainer, model


def test_loss_scaling_leaves_steps_out_and_lowers_the_scale():
    trainer, model = scaled([examples(2)] * 3, 3)
    before = model.linear.weight.detach().clone()
    overflows = iter([True, True, False])

    def overflow(gradient):
        return gradient * (float("inf") if next(overflows) else 1)

    model.linear.weight.register_hook(overflow)
    with EventStorage(0) as trainer.storage:
        trainer.max_iter = 3
        for trainer.iter in range(2):
            trainer.run_step()
            assert torch.equal(model.linear.weight, before)
        trainer.iter = 2
        trainer.run_step()
    assert trainer.grad_scaler.get_scale() == 2.0**14
    assert trainer.completed_iters == 3
    assert not torch.equal(model.linear.weight, before)
    assert model.linear.weight.isfinite().all()


def test_loss_scaling_that_does_not_help_is_an_error():
    trainer, model = scaled([examples(2)] * 60, 60)
    before = model.linear.weight.detach().clone()
    nan_gradient(model)
    with pytest.raises(NonFiniteLossError, match=r"train.amp.dtype=bf16"):
        trainer.train(0, 60)
    assert torch.equal(model.linear.weight, before)
    assert 26 <= trainer.completed_iters < 30  # 2**16 halved to below 2**-10


CLIP_OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1.0, fused=True),
    "loop": lambda p: torch.optim.SGD(p, 1.0, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, 1.0, fused=True),
}


def gradients_of_a_step(optimizer="sgd", parts=1, scale=None, **limits):
    """The gradients that the optimizer steps with, as one vector, and what was logged."""
    torch.manual_seed(0)
    model, data = Regression(), examples(8)
    size = len(data) // parts
    batches = [data[k : k + size] for k in range(0, len(data), size)]
    step = CLIP_OPTIMIZERS[optimizer](model.parameters())
    trainer = Trainer(model, batches, step, seed=0, device=CPU, accumulate=parts, **limits)
    if scale is not None:
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = model.linear.weight.detach().clone()
    with EventStorage(0) as trainer.storage:
        trainer.iter, trainer.max_iter = 0, 1
        trainer.run_step()
        logged = {key: value for key, (value, _) in trainer.storage.latest().items()}
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    if optimizer != "adamw":  # a rate of 1: the weights change by what the optimizer was given
        torch.testing.assert_close(
            (before - model.linear.weight).flatten(), gradients[: before.numel()]
        )
    return gradients, logged


@pytest.mark.parametrize("scale", [None, 2.0**12])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("optimizer", CLIP_OPTIMIZERS)
def test_gradients_are_clipped_as_a_whole(optimizer, parts, scale):
    free, silent = gradients_of_a_step()
    norm, middle = free.norm().item(), free.abs().median().item()
    assert "gradient_norm" not in silent

    by_norm, logged = gradients_of_a_step(optimizer, parts, scale, clip_norm=norm / 4)
    torch.testing.assert_close(by_norm, free / 4, atol=1e-6, rtol=1e-4)
    assert logged["gradient_norm"] == pytest.approx(norm, rel=1e-4)

    by_value, _ = gradients_of_a_step(optimizer, parts, scale, clip_value=middle)
    torch.testing.assert_close(by_value, free.clamp(-middle, middle), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(by_value, free)

    both, logged = gradients_of_a_step(optimizer, parts, scale, clip_value=middle, clip_norm=1e9)
    torch.testing.assert_close(both, by_value, atol=1e-6, rtol=1e-4)
    assert logged["gradient_norm"] == pytest.approx(by_value.norm().item(), rel=1e-4)


def test_a_step_that_overflows_is_skipped_with_a_limit_too():
    trainer, model = scaled([examples(2)] * 2, 2)
    trainer.clip_norm = 1.0
    before = model.linear.weight.detach().clone()
    overflows = iter([True, False])
    model.linear.weight.register_hook(lambda g: g * (float("inf") if next(overflows) else 1))
    with EventStorage(0) as trainer.storage:
        trainer.max_iter = 2
        for trainer.iter, moved in enumerate([False, True]):
            trainer.run_step()
            assert torch.equal(model.linear.weight, before) != moved
            assert ("gradient_norm" in trainer.storage.latest()) == moved
    assert trainer.grad_scaler.get_scale() == 2.0**15
