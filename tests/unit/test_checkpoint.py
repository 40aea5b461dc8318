"""Atomic saves under SIGKILL, strictness policies, and the published file formats."""

import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from fvcore.common.checkpoint import PeriodicCheckpointer
from torch import nn

from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    SafeCheckpointer,
    checkpoint_facts,
    find_last_checkpoint,
)
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_repro.utils.atomic import atomic_write, atomic_write_text, clean_leftovers
from mask_rcnn_repro.utils.checkpoint_paths import check_exists, local_path


class Detector(nn.Module):
    """A narrow ResNet-50-like backbone (bare or under an FPN), a head, and pixel means."""

    def __init__(self, fpn=False, norm="FrozenBN", classes=3):
        super().__init__()
        resnet = ResNet(
            BasicStem(3, 4, norm),
            [
                ResNet.make_stage(
                    BottleneckBlock,
                    2,
                    stride_per_block=[1 if index == 0 else 2, 1],
                    in_channels=4 if index == 0 else 8 * 2 ** (index - 1),
                    out_channels=8 * 2**index,
                    bottleneck_channels=2 * 2**index,
                    norm=norm,
                    stride_in_1x1=True,
                )
                for index in range(3)
            ],
            out_features=["res2", "res3", "res4"],
        )
        self.backbone = FPN(resnet, ["res2", "res3", "res4"], 4) if fpn else resnet
        self.roi_heads = nn.Module()
        self.roi_heads.res5 = nn.Sequential(
            *ResNet.make_stage(
                BottleneckBlock,
                1,
                in_channels=32,
                out_channels=64,
                bottleneck_channels=8,
                norm=norm,
                stride_per_block=[1],
            )
        )
        self.roi_heads.predictor = nn.Linear(64, classes + 1)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)

    def filled(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
        return self


def saved(model, folder, name="model_final", **extra):
    SafeCheckpointer(model, str(folder)).save(name, **extra)
    return str(Path(folder, f"{name}.pth"))


def same_weights(one, other, prefix=""):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[k], theirs[k]) for k in ours if k.startswith(prefix))


# --- atomic files ---------------------------------------------------------------------------


def test_atomic_write_replaces_only_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")
    with atomic_write(target, text=True) as file:
        file.write("new ü")
        file.flush()
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "new ü"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_cleans_up_after_an_error(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail_in_the_middle():
        with atomic_write(target) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_clean_leftovers_spares_living_writers_and_other_files(tmp_path):
    (tmp_path / ".a.pth.0123456789abcdef.partial").write_bytes(b"of a killed process")
    (tmp_path / "b.partial").write_bytes(b"someone else's")
    with atomic_write(tmp_path / "c.pth") as file:
        file.write(b"x")
        removed = clean_leftovers(tmp_path)
        assert [path.name for path in removed] == [".a.pth.0123456789abcdef.partial"]
    assert sorted(os.listdir(tmp_path)) == ["b.partial", "c.pth"]
    assert clean_leftovers(tmp_path / "nowhere") == []


def kill_while(action, delay):
    """Runs `action` in a child process and kills it after `delay` seconds."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(started, b"x")
            action()
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(started)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


class Big(nn.Module):
    """4 MB in which every number is the same, so that a mixture of two saves shows."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ParameterList(torch.zeros(250_000) for _ in range(4))

    def set(self, value):
        for part in self.parts:
            part.data.fill_(value)


@pytest.mark.parametrize("names", ["one name", "new names"])
def test_kill_while_saving_leaves_a_usable_checkpoint(tmp_path, names):
    model, last = Big(), 0
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000000", iteration=0)

    def save_forever(first):
        number = first
        while True:
            number += 1
            model.set(number)
            name = "model_0000000" if names == "one name" else f"model_{number:07d}"
            checkpointer.save(name, iteration=number)

    left_partial = 0
    for delay in np.random.RandomState(0).uniform(0.01, 0.06, 12):
        kill_while(lambda: save_forever(last), delay)  # noqa: B023
        left_partial += any(name.endswith(".partial") for name in os.listdir(tmp_path))
        resumed = Big()
        checkpointer = SafeCheckpointer(resumed, str(tmp_path))
        iteration = checkpointer.resume_or_load("")["iteration"]
        assert iteration >= last
        assert all((part == iteration).all() for part in resumed.parts)
        for file in tmp_path.glob("*.pth"):
            SafeCheckpointer(Big()).load(str(file))
        assert not list(tmp_path.glob(".*.partial"))
        last = iteration
        checkpointer = SafeCheckpointer(model, str(tmp_path))
    assert last > 0
    assert left_partial > 0  # some kills did hit the middle of a save


# --- saving and resuming --------------------------------------------------------------------


def test_training_state_is_restored(tmp_path):
    def training():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer

    model, optimizer = training()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    checkpointer = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    assert not checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == ""
    checkpointer.save("model_0000002", iteration=2, note={"seed": np.int64(4)})

    other, other_optimizer = training()
    resumed = SafeCheckpointer(other, str(tmp_path), optimizer=other_optimizer)
    extra = resumed.resume_or_load("")
    assert extra["iteration"] == 2 and extra["note"]["seed"] == 4
    assert same_weights(model, other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(
            optimizer.state[one]["momentum_buffer"], other_optimizer.state[two]["momentum_buffer"]
        )
    assert checkpoint_facts(tmp_path / "model_0000002.pth")["iterations_done"] == 3
    assert find_last_checkpoint(tmp_path) == tmp_path / "model_0000002.pth"


def test_resuming_needs_all_state(tmp_path):
    model = nn.Linear(2, 2)
    path = saved(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpointer = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    with pytest.raises(CheckpointError, match="no state of optimizer"):
        checkpointer.load(path)
    checkpointer.load(path, checkpointables=[])


def test_optimizer_of_another_model(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("a")
    fewer = torch.optim.SGD([model.weight], lr=0.1)
    with pytest.raises(CheckpointError, match="does not fit"):
        SafeCheckpointer(model, optimizer=fewer).load(str(tmp_path / "a.pth"))


def test_periodic_saves_keep_a_limited_number(tmp_path):
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=9, max_to_keep=2)
    for iteration in range(9):
        periodic.step(iteration)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000005.pth",
        "model_0000007.pth",
        "model_final.pth",
    ]
    assert find_last_checkpoint(tmp_path).name == "model_final.pth"


@pytest.mark.parametrize("content", ["", "model_9.pth", "../a.pth", "\x00\xff"])
def test_broken_pointer(tmp_path, content):
    saved(nn.Linear(1, 1), tmp_path, "a")
    saved(nn.Linear(1, 1), tmp_path / "inner", "b")
    (tmp_path / "inner" / "last_checkpoint").write_text(content)
    with pytest.raises(CheckpointError, match=r"last_checkpoint names .*there: b\.pth"):
        find_last_checkpoint(tmp_path / "inner")


def test_nothing_is_saved_off_the_main_process(tmp_path):
    SafeCheckpointer(nn.Linear(1, 1), str(tmp_path), save_to_disk=False).save("a")
    assert os.listdir(tmp_path) == []


# --- policies -------------------------------------------------------------------------------


def test_missing_file_and_unknown_address(tmp_path):
    checkpointer = SafeCheckpointer(nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"looked for '/.*/nowhere\.pth'"):
        checkpointer.load(str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match="catalog://nothing"):
        checkpointer.load("catalog://nothing")
    with pytest.raises(CheckpointError, match="No checkpoint was given"):
        checkpointer.load("")
    assert checkpointer.load("", policy="relaxed") == {}
    with pytest.raises(CheckpointError, match="allowed: exact, init, relaxed"):
        checkpointer.load("x", policy="strict")


def test_malicious_checkpoint_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"model": {"weight": Attack()}}, tmp_path / "a.pth")
    torch.save({"model_state": {"weight": Attack()}}, tmp_path / "a.pyth")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": Attack(), "__author__": "x"}))
    for name in ("a.pth", "a.pyth", "a.pkl"):
        with pytest.raises(CheckpointError, match="refused"):
            SafeCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / name), policy="relaxed")
    assert not (tmp_path / "executed").exists()


def test_exact_lists_every_difference(tmp_path):
    path = saved(Detector(classes=3), tmp_path)
    state = torch.load(path)
    state["model"]["stray.weight"] = torch.zeros(2)
    del state["model"]["backbone.stem.conv1.weight"]
    del state["model"]["roi_heads.res5.0.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        SafeCheckpointer(Detector(classes=5)).load(path)
    lines = str(caught.value).splitlines()
    assert "(5 differences)" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "missing in the file: backbone.stem.conv1.weight (4, 3, 7, 7)",
        "missing in the file: roi_heads.res5.0.conv1.weight (8, 32, 1, 1)",
        "not in the model: stray.weight",
        "other shape: roi_heads.predictor.weight (4, 64) in the file, (6, 64) here",
        "other shape: roi_heads.predictor.bias (4,) in the file, (6,) here",
    ]


def test_exact_accepts_its_own_file_bare_or_wrapped(tmp_path):
    model = Detector().filled()
    for content in (
        {"model": model.state_dict()},
        model.state_dict(),
        {"model": {f"module.{key}": value for key, value in model.state_dict().items()}},
        # what old files hold and models take from their config
        {**model.state_dict(), "pixel_mean": torch.ones(3, 1, 1)},
        {**model.state_dict(), "x.anchor_generator.cell_anchors.0": torch.ones(3, 4)},
        {**model.state_dict(), "backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(3)},
    ):
        torch.save(content, tmp_path / "a.pth")
        other = Detector()
        SafeCheckpointer(other).load(str(tmp_path / "a.pth"))
        assert same_weights(model, other)


@pytest.mark.parametrize("fpn", [False, True])
def test_init_needs_the_backbone_only(tmp_path, fpn, caplog):
    source = Detector(fpn, classes=3).filled()
    part = "backbone.bottom_up." if fpn else "backbone."
    weights = {k: v for k, v in source.state_dict().items() if k.startswith(part)}
    torch.save({**weights, "classifier.weight": torch.zeros(1)}, tmp_path / "a.pth")
    model = Detector(fpn)
    SafeCheckpointer(model, policy="init").load(str(tmp_path / "a.pth"))
    assert same_weights(source, model, part)
    assert "roi_heads.predictor" in caplog.text and "classifier" in caplog.text

    for key in (f"{part}stem.conv1.weight", f"{part}res4.1.conv3.norm.bias"):
        for change in ("missing", "misshapen"):
            broken = dict(weights)
            del broken[key]
            if change == "misshapen":
                broken[key] = torch.zeros(1, 2)
            torch.save(broken, tmp_path / "b.pth")
            with pytest.raises(CheckpointError, match=key) as caught:
                SafeCheckpointer(Detector(fpn)).load(str(tmp_path / "b.pth"), policy="init")
            assert "train.strict_init=false" in str(caught.value)
            SafeCheckpointer(Detector(fpn)).load(str(tmp_path / "b.pth"), policy="relaxed")


@pytest.mark.parametrize("fpn", [False, True])
def test_init_from_a_detector_of_other_classes_is_refused(tmp_path, fpn):
    source = Detector(fpn, classes=5).filled()
    path = saved(source, tmp_path)
    model = Detector(fpn)
    with pytest.raises(CheckpointError, match=r"predictor\.weight \(6, 64\) in the file") as caught:
        SafeCheckpointer(model).load(path, policy="init")
    for way in ("train.init_classes='{}'", "train.init_classes_of", "train.strict_init=false"):
        assert way in str(caught.value)
    SafeCheckpointer(model).load(path, policy="relaxed")
    assert same_weights(source, model, "backbone.")


def test_init_takes_all_weights_of_a_head_or_none(tmp_path):
    state = Detector().filled().state_dict()
    key = "roi_heads.predictor.bias"
    for content, wanted in (
        ({k: v for k, v in state.items() if k != key}, f"missing in the file: {key}"),
        (state | {f"{key}2": torch.zeros(1)}, f"not in the model: {key}2"),
        ({k: v for k, v in state.items() if "predictor" not in k}, None),
        (state | {"roi_heads.mask_head.bias": torch.zeros(1)}, None),
    ):
        torch.save(content, tmp_path / "a.pth")
        checkpointer = SafeCheckpointer(Detector(), policy="init")
        if wanted is None:
            checkpointer.load(str(tmp_path / "a.pth"))
        else:
            with pytest.raises(CheckpointError, match=wanted):
                checkpointer.load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {"model": 3}, {"model": {1: 2}}])
def test_file_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        SafeCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "a.pth"), policy="relaxed")


def test_usable_after_a_failed_load(tmp_path):
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), policy="relaxed")
    (tmp_path / "bad.pth").write_bytes(b"bad")
    with pytest.raises(CheckpointError):
        checkpointer.load(str(tmp_path / "bad.pth"), policy="exact")
    checkpointer.load(saved(nn.Linear(1, 1), tmp_path))
    assert checkpointer.policy == "relaxed"


# --- published formats ----------------------------------------------------------------------


def caffe2_name(key):
    """Detectron2's name of a ResNet weight -> Detectron's (`conv1_w`, `res2_0_branch2a_bn_s`)."""
    parts = key.split(".")
    is_norm, last = "norm" in parts, {"weight": "w", "bias": "b"}[parts[-1]]
    if parts[0] == "stem":
        return f"res_conv1_bn_{'s' if last == 'w' else 'b'}" if is_norm else f"conv1_{last}"
    branches = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
    end = f"bn_{'s' if last == 'w' else 'b'}" if is_norm else last
    return f"{parts[0]}_{parts[1]}_branch{branches[parts[2]]}_{end}"


def caffe2_weights(source):
    """An ImageNet file in Caffe2's names, and what each of its arrays should end up as."""
    state = source.state_dict()
    expected = {}
    for key, value in state.items():
        inner = key.removeprefix("backbone.").removeprefix("bottom_up.")
        inner = inner.removeprefix("roi_heads.")
        if inner.startswith(("stem", "res")) and "running" not in key:
            expected[caffe2_name(inner)] = (key, value)
    return expected


@pytest.mark.parametrize("blobs", [True, False])
@pytest.mark.parametrize("fpn", [True, False])
def test_caffe2_imagenet_file(tmp_path, fpn, blobs):
    source = Detector(fpn).filled()
    expected = caffe2_weights(source)
    assert "res2_0_branch1_w" in expected and "res_conv1_bn_s" in expected
    # our names mean what Detectron2 takes them for
    assert convert_basic_c2_names(["res2_0_branch2a_bn_s"]) == ["res2.0.conv1.norm.weight"]
    arrays = {name: value.numpy() for name, (_, value) in expected.items()}
    arrays["pred_w"], arrays["conv1_w_momentum"] = np.zeros((10, 64)), np.zeros(3)
    content = {"blobs": arrays, "cfg": "MODEL: {}"} if blobs else arrays
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))

    model = Detector(fpn)
    SafeCheckpointer(model).load(str(tmp_path / "R-50.pkl"), policy="init")
    state = model.state_dict()
    for key, value in expected.values():
        assert torch.equal(state[key], value), key
    norm = next(m for m in model.modules() if isinstance(m, FrozenBatchNorm2d))
    assert (norm.running_mean == 0).all()
    # the head's res5 is filled as well
    assert torch.equal(state["roi_heads.res5.0.conv1.weight"], expected["res5_0_branch2a_w"][1])

    del arrays["res3_1_branch2b_w"]
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"missing.*res3\.1\.conv2\.weight"):
        SafeCheckpointer(Detector(fpn)).load(str(tmp_path / "R-50.pkl"), policy="init")


def test_imagenet_file_of_another_width_tells_shapes(tmp_path):
    arrays = {name: v.numpy() for name, (_, v) in caffe2_weights(Detector().filled()).items()}
    arrays["conv1_w"] = np.zeros((64, 3, 7, 7), np.float32)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    wanted = r"stem.conv1.weight \(64, 3, 7, 7\) in the file, \(4, 3, 7, 7\) here"
    with pytest.raises(CheckpointError, match=wanted):
        SafeCheckpointer(Detector()).load(str(tmp_path / "R-50.pkl"), policy="init")


def test_model_zoo_file(tmp_path):
    source = Detector().filled()
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
    model = Detector()
    SafeCheckpointer(model).load(str(tmp_path / "model_final.pkl"))
    assert same_weights(source, model)
    assert checkpoint_facts(tmp_path / "model_final.pkl")["iterations_done"] is None
    # the zoo's files must fit exactly, too
    del arrays["roi_heads.predictor.bias"]
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"missing.*roi_heads\.predictor\.bias"):
        SafeCheckpointer(Detector()).load(str(tmp_path / "model_final.pkl"))


def test_matching_heuristics_for_torch_and_pycls_files(tmp_path):
    source = Detector().filled()
    inner = {
        key.removeprefix("backbone."): value
        for key, value in source.state_dict().items()
        if key.startswith("backbone.")
    }
    torch.save(inner, tmp_path / "a.pth")
    torch.save({"model_state": inner}, tmp_path / "a.pyth")
    for address in ("a.pth?matching_heuristics=True", "a.pyth"):
        model = Detector()
        SafeCheckpointer(model).load(str(tmp_path / address), policy="init")
        assert same_weights(source, model, "backbone.")
    with pytest.raises(CheckpointError, match="matching_heuristics=True"):
        SafeCheckpointer(Detector()).load(str(tmp_path / "a.pth?heuristics=1"), policy="init")
    torch.save(inner, tmp_path / "b.pyth")
    with pytest.raises(CheckpointError, match="model_state"):
        SafeCheckpointer(Detector()).load(str(tmp_path / "b.pyth"), policy="init")


def test_trainable_batch_norm_needs_its_statistics(tmp_path):
    source = Detector(norm="BN").filled()
    state = source.state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    torch.save({k: v for k, v in state.items() if k not in counters}, tmp_path / "a.pth")
    SafeCheckpointer(Detector(norm="BN")).load(str(tmp_path / "a.pth"))
    means = {key for key in state if key.endswith("running_mean")}
    torch.save({k: v for k, v in state.items() if k not in means}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="running_mean"):
        SafeCheckpointer(Detector(norm="BN")).load(str(tmp_path / "b.pth"), policy="init")


def test_a_misfit_names_the_config_beside_the_checkpoint(tmp_path):
    path = saved(Detector(classes=3).filled(), tmp_path)
    (tmp_path / "config.yaml").write_text("train: {}")
    with pytest.raises(CheckpointError) as error:
        SafeCheckpointer(Detector(classes=5)).load(path, checkpointables=[])
    beside = tmp_path / "config.yaml"
    assert f"{beside} lies beside it: --config-file {beside}" in str(error.value)


@pytest.mark.parametrize("read", [check_exists, local_path])
def test_a_directory_in_place_of_a_checkpoint_names_its_files(tmp_path, read):
    with pytest.raises(CheckpointError, match=r"directory.*no \.pth"):
        read(str(tmp_path))
    saved(Detector(), tmp_path)
    with pytest.raises(CheckpointError, match=r"Give a file in it: model_final\.pth"):
        read(str(tmp_path))
