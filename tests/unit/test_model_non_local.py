"""The non-local block against its formula in plain loops, and a network around it."""

import math
import pickle

import pytest
import torch
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mask_rcnn_repro.config import get_config, validate_config
from mask_rcnn_repro.config.yacs import add_mask_rcnn_repro_config
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.seeding import make_deterministic
from mask_rcnn_repro.errors import CheckpointError, ConfigError
from mask_rcnn_repro.modeling import NonLocalBlock, build_fpn, build_resnet
from mask_rcnn_repro.modeling.backbone.non_local import ChannelAffine
from mask_rcnn_repro.modeling.backbone.resnet import build_mask_rcnn_repro_resnet_backbone

from .model_helpers import build, infer, make_inputs, narrow_config, resnet_of, train_step

ALL = ["res2", "res3", "res4", "res5"]
NORMS = ["", "FrozenBN", "BN", "GN"]
NEW = "non_local"


def filled(block, seed=0, std=0.7):
    """Weights that are far from the first ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return block


def by_the_formula(block, x):
    """Section 3 of Wang et al. for one image (C, H, W) in float64, position by position."""
    weights = {k: v.double() for k, v in block.state_dict().items()}
    matrix = {k: weights[f"{k}.weight"][:, :, 0, 0] for k in ("theta", "phi", "g", "output")}
    channels, height, width = x.shape
    at = [x.double()[:, i, j] for i in range(height) for j in range(width)]
    result = torch.zeros(channels, height, width, dtype=torch.float64)
    for i, x_i in enumerate(at):
        query = matrix["theta"] @ x_i
        f = [math.exp(float(query @ (matrix["phi"] @ x_j))) for x_j in at]
        y = sum(f_j * (matrix["g"] @ x_j) for f_j, x_j in zip(f, at, strict=True)) / sum(f)
        z = weights["output.norm.weight"] * (matrix["output"] @ y) + weights["output.norm.bias"]
        result[:, i // width, i % width] = x_i + z
    return result


# --- the block ------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 7), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)
)
def test_it_is_the_embedded_gaussian(images, channels, height, width, seed):
    block = filled(NonLocalBlock(channels), seed).double()
    x = torch.randn(images, channels, height, width, generator=torch.Generator().manual_seed(seed))
    found = block(x.double())
    expected = torch.stack([by_the_formula(block, image) for image in x])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_two_positions_by_hand():
    """theta(x) phi(x) = 2 * 1 and 2 * 3: the weights are 1 / (1 + e^4) and e^4 / (1 + e^4)."""
    block = NonLocalBlock(1)
    for layer, weight in ((block.theta, 2.0), (block.phi, 1.0), (block.g, 10.0)):
        nn.init.constant_(layer.weight, weight)
    nn.init.constant_(block.output.weight, 0.5)
    nn.init.constant_(block.output.norm.weight, 4.0)
    nn.init.constant_(block.output.norm.bias, 0.25)
    x = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    first = (10 * 1 + 10 * 3 * math.exp(4)) / (1 + math.exp(4))
    second = (10 * 1 + 10 * 3 * math.exp(12)) / (1 + math.exp(12))
    expected = [1 + 0.25 + 4 * 0.5 * first, 3 + 0.25 + 4 * 0.5 * second]
    assert block(x).flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_at_first_it_changes_nothing(norm, training):
    block = NonLocalBlock(16, norm=norm).train(training)
    for layer in (block.theta, block.phi, block.g, block.output):
        assert layer.bias is None
        assert layer.weight.abs().min() > 0  # it is the norm alone that is zero
    x = torch.randn(2, 16, 7, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("norm", NORMS)
def test_it_learns_all_the_same(norm):
    """The norm from the first step on, the convolutions from the second."""
    torch.manual_seed(0)
    block = NonLocalBlock(16, norm=norm)
    x, target = torch.randn(2, 16, 6, 5), torch.randn(2, 16, 6, 5)
    optimizer = torch.optim.SGD(block.parameters(), lr=1.0)

    def step():
        optimizer.zero_grad()
        (block(x) - target).square().mean().backward()
        optimizer.step()
        return {name: bool(p.grad.abs().sum() > 0) for name, p in block.named_parameters()}

    first = step()
    assert first == {name: ".norm." in name for name in first}
    assert len(first) == 6 and sum(first.values()) == 2
    assert all(step().values())
    assert not torch.equal(block(x), x)


def test_norms():
    """A frozen norm without statistics would not learn: a trainable scale and shift instead."""
    types = {norm: type(NonLocalBlock(64, norm=norm).output.norm) for norm in NORMS}
    assert types == {
        "": ChannelAffine,
        "FrozenBN": ChannelAffine,
        "BN": nn.BatchNorm2d,
        "GN": nn.GroupNorm,
    }
    affine = ChannelAffine(2)
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(affine(x), x)
    affine.weight.data = torch.tensor([2.0, -1.0])
    affine.bias.data = torch.tensor([0.0, 5.0])
    assert torch.equal(affine(x), torch.stack([2 * x[:, 0], 5 - x[:, 1]], 1))
    with pytest.raises(ConfigError, match="norm='LN' is unknown"):
        NonLocalBlock(8, norm="LN")
    with pytest.raises(ConfigError, match="channels=0"):
        NonLocalBlock(0)


def test_similarities_keep_float32_under_bfloat16():
    """64.0625 and 63.9375 are one number in bfloat16: rounded to it, both would weigh a half."""
    block = NonLocalBlock(6, inner_channels=2)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.theta.weight[0, 0] = block.theta.weight[1, 1] = 1
        block.phi.weight[0, 2] = block.phi.weight[1, 3] = 1
        block.g.weight[0, 4] = 1
        block.output.weight[5, 0] = 1
        block.output.norm.weight.fill_(1)
    first = [8.0, 1.0, 8.0, 0.0625, 1.0, 0.0]
    second = [8.0, 1.0, 8.0, -0.0625, -1.0, 0.0]
    x = torch.tensor([first, second]).T.reshape(1, 6, 1, 2).contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x.bfloat16())
    assert out.dtype == torch.bfloat16
    # weights e^(1/16) and e^(-1/16), values 1 and -1
    assert out[0, 5].float().flatten().tolist() == pytest.approx([math.tanh(1 / 16)] * 2, rel=0.01)
    assert torch.equal(out[:, :5], x[:, :5].bfloat16())


@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_bfloat16_and_channels_last(norm):
    block = filled(NonLocalBlock(32, norm=norm), std=0.2).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 9, 7)
    expected = block(x)
    assert expected.is_contiguous()
    last = block(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = block(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)


def test_similarities_are_not_kept_for_the_backward_pass():
    """Stage 4 of 800 x 1333 pixels has 50 x 84 positions."""
    block = filled(NonLocalBlock(8), std=0.1)
    x = torch.randn(1, 8, 50, 84, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        out = block(x)
    out.sum().backward()
    assert max(kept) <= 8 * 4200
    assert x.grad.isfinite().all()


# --- in a network ---------------------------------------------------------------------------


def pair(depth, norm, stages, width=0.125, **arguments):
    """A network and the same with blocks in `stages`, all other weights equal."""
    common = {"depth": depth, "norm": norm, "width_multiplier": width, "freeze_at": 0, **arguments}
    common.setdefault("out_features", ALL)
    without, with_blocks = build_resnet(**common), build_resnet(**common, non_local=stages)
    missing, unexpected = with_blocks.load_state_dict(without.state_dict(), strict=False)
    assert unexpected == [] and all(f".{NEW}." in key for key in missing)
    assert {key.partition(".")[0] for key in missing} == set(stages)
    return without, with_blocks


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("depth", "stages"), [(18, ["res4"]), (50, ["res4"]), (50, ["res5"])])
def test_a_network_computes_the_same_with_it(depth, stages, norm):
    without, with_blocks = pair(depth, norm, stages)
    x = torch.randn(2, 3, 45, 77)  # sizes that no stride divides
    for training in (True, False):
        ours, theirs = with_blocks.train(training)(x), without.train(training)(x)
        assert all(torch.equal(ours[name], theirs[name]) for name in ALL)
    filled(getattr(with_blocks, stages[0]).non_local)
    changed = [name for name in ALL if not torch.equal(with_blocks(x)[name], theirs[name])]
    assert changed == ALL[ALL.index(stages[0]) :]


def test_its_place_is_before_the_last_block():
    blocks = build_resnet(101, out_features=["res4"], width_multiplier=1 / 64, non_local=["res4"])
    names = [name for name, _ in blocks.res4.named_children()]
    assert names == [*map(str, range(22)), NEW, "22"]
    seen = []
    for name, module in blocks.res4.named_children():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    blocks(torch.randn(1, 3, 32, 32))
    assert seen == names
    assert blocks.stages[2] is blocks.res4
    shape = blocks.output_shape()["res4"]
    assert (shape.channels, shape.stride) == (16, 16)


@pytest.mark.parametrize("multiplier", [1 / 64, 1 / 16, 0.25, 1.0, 2.0])
def test_its_width_follows_the_networks(multiplier):
    with torch.device("meta"):
        block = build_resnet(
            50, out_features=["res4"], width_multiplier=multiplier, non_local=["res4"]
        ).res4.non_local
    channels = int(1024 * multiplier)
    for layer in (block.theta, block.phi, block.g):
        assert layer.weight.shape == (channels // 2, channels, 1, 1)
    assert block.output.weight.shape == (channels, channels // 2, 1, 1)
    assert block.output.norm.weight.shape == block.output.norm.bias.shape == (channels,)
    assert (block.in_channels, block.out_channels, block.stride) == (channels, channels, 1)


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_a_detector_computes_the_same_with_it_and_trains(kind):
    configs = [narrow_config(kind), narrow_config(kind)]
    resnet_of(configs[1]).non_local = ["res4"]
    without, with_block = (build(cfg) for cfg in configs)
    with_block.load_state_dict(without.state_dict(), strict=False)
    detections = [infer(model, make_inputs()) for model in (without, with_block)]
    for a, b in zip(*detections, strict=True):
        assert len(a) > 0
        for field in ("scores", "pred_masks"):
            assert torch.equal(a.get(field), b.get(field))
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    train_step(with_block, make_inputs())
    gradients = {
        name.partition(f".{NEW}.")[2]: p.grad.abs().sum() > 0
        for name, p in with_block.named_parameters()
        if f".{NEW}." in name
    }
    assert len(gradients) == 6
    assert {name for name, flows in gradients.items() if flows} == {
        "output.norm.weight",
        "output.norm.bias",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"non_local": ["res6"]}, r"non_local=\['res6'\] must be .*: res2, res3, res4"),
        ({"non_local": ["res5"]}, "different stages.*: res2, res3, res4$"),
        ({"non_local": ["res4", "res4"]}, "different stages"),
        ({"non_local": "res4"}, "non_local=res4 must be a list"),
        ({"non_local": ["stem"]}, "different stages"),
        ({"non_local": ["res2"], "freeze_at": 2}, r"res2, which freeze_at=2 .* freeze_at to 1"),
        ({"non_local": ["res4"], "freeze_at": 4}, "lower freeze_at to 3"),
    ],
)
def test_impossible_places_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_resnet(50, out_features=["res4"], width_multiplier=1 / 64, **arguments)


def test_by_name():
    cfg = get_cfg()
    add_mask_rcnn_repro_config(cfg)
    cfg.MODEL.RESNETS.WIDTH_MULTIPLIER = 0.125
    for stages in ([], ["res4"]):
        cfg.MODEL.RESNETS.NON_LOCAL = stages
        by_name = build_mask_rcnn_repro_resnet_backbone(cfg, ShapeSpec(channels=3))
        lazy = build_resnet(50, out_features=["res4"], width_multiplier=0.125, non_local=stages)
        shapes = {k: v.shape for k, v in by_name.state_dict().items()}
        assert shapes == {k: v.shape for k, v in lazy.state_dict().items()}
        assert any(NEW in key for key in shapes) is bool(stages)


@pytest.mark.parametrize(("row", "place"), [("r50_c4", ""), ("r50_fpn", "bottom_up.")])
def test_any_row_takes_it_by_one_key(row, place):
    cfg = get_config(f"table2a/{row}", "tiny", [f"model.backbone.{place}non_local=[res4]"])
    node = resnet_of(cfg.model)
    assert list(node.non_local) == ["res4"]
    validate_config(cfg)
    with pytest.raises(ConfigError, match=r"\bnon_local\b"):  # the nearest known key
        get_config(f"table2a/{row}", "tiny", [f"model.backbone.{place}nonlocal=[res4]"])


# --- weights --------------------------------------------------------------------------------


class Detector(nn.Module):
    """A backbone as SafeCheckpointer looks for it."""

    def __init__(self, fpn, **arguments):
        super().__init__()
        common = {"width_multiplier": 1 / 32, "stride_in_1x1": True, **arguments}
        resnet = build_resnet(50, out_features=ALL if fpn else ["res4"], **common)
        self.backbone = build_fpn(resnet, in_features=ALL, out_channels=4) if fpn else resnet
        self.resnet = [resnet]  # not a module of its own


def caffe2_blobs(network):
    """Weights under Detectron's names, as a classifier of ImageNet has them."""
    parts = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    ends = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    blobs = {"pred_w": torch.zeros(5, 4).numpy()}
    for key, value in network.state_dict().items():
        owner, _, end = key.partition(".norm.")
        end = f"norm.{end}" if end else "weight"
        owner = owner.removesuffix(".weight")
        if end in ends:
            if owner == "stem.conv1":
                name = "conv1" if end == "weight" else "res_conv1"
            else:
                stage, block, part = owner.split(".")
                name = f"{stage}_{block}_{parts[part]}"
            blobs[f"{name}_{ends[end]}"] = torch.rand(value.shape).numpy()
    return blobs


@pytest.mark.parametrize("fpn", [False, True], ids=["c4", "fpn"])
def test_detectrons_classifiers_fill_all_but_the_block(fpn, tmp_path):
    without, with_block = Detector(fpn), Detector(fpn, non_local=["res4"])
    file = tmp_path / "X.pkl"
    with file.open("wb") as stream:
        pickle.dump({"blobs": caffe2_blobs(without.resnet[0])}, stream)
    for model in (without, with_block):
        SafeCheckpointer(model, policy="init").load(str(file))
    ours, theirs = (model.resnet[0].state_dict() for model in (with_block, without))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert float(ours["res4.5.conv3.weight"].min()) >= 0  # from the file
    assert not ours["res4.non_local.output.norm.weight"].any()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(with_block.resnet[0](x)["res4"], without.resnet[0](x)["res4"])


def test_our_own_checkpoints(tmp_path):
    without, with_block = Detector(True), Detector(True, non_local=["res4"])
    filled(with_block.resnet[0].res4.non_local)
    for name, model in (("without", without), ("with_block", with_block)):
        SafeCheckpointer(model, str(tmp_path)).save(name)
    fresh = Detector(True, non_local=["res4"])
    SafeCheckpointer(fresh, policy="exact").load(str(tmp_path / "with_block.pth"))
    for key, value in with_block.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value)
    with pytest.raises(CheckpointError, match=r"missing in the file: .*non_local\.theta") as error:
        SafeCheckpointer(fresh, policy="exact").load(str(tmp_path / "without.pth"))
    assert str(error.value).count("missing in the file") == 6
    with pytest.raises(CheckpointError, match=r"not in the model: .*non_local\.theta"):
        SafeCheckpointer(without, policy="exact").load(str(tmp_path / "with_block.pth"))
    SafeCheckpointer(fresh, policy="init").load(str(tmp_path / "without.pth"))
    assert fresh.resnet[0].res4.non_local.theta.weight.any()


def test_half_a_block_is_no_block(tmp_path):
    model = Detector(False, non_local=["res4"])
    state = {k: v for k, v in model.state_dict().items() if "non_local.phi" not in k}
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"1 differences.*\n.*res4\.non_local\.phi\.weight"):
        SafeCheckpointer(model, policy="init").load(str(tmp_path / "half.pth"))


# --- ResNeXt-152 ----------------------------------------------------------------------------


def test_resnext_152_has_detectron2s_keys_and_shapes():
    cfg = get_cfg()
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = 152, 32, 8
    resnets.STRIDE_IN_1X1, resnets.OUT_FEATURES = False, ALL
    node = get_config("table8/non_local").model.backbone.bottom_up
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    with torch.device("meta"):
        theirs = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        ours = build_resnet(**arguments)
    shapes = {k: tuple(v.shape) for k, v in ours.state_dict().items()}
    added = {k for k in shapes if f".{NEW}." in k}
    expected = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert {k: v for k, v in shapes.items() if k not in added} == expected
    assert len(added) == 6 and all(k.startswith("res4.") for k in added)
    assert [len(stage) for stage in ours.stages] == [3, 8, 37, 3]
    strides = [(s[0].conv1.stride, s[0].conv2.stride) for s in ours.stages]
    assert strides == [(s[0].conv1.stride, s[0].conv2.stride) for s in theirs.stages]


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ("table8/deeper", "ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl"),
        ("table8/e2e", "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl"),
        ("table9/resnext", "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl"),
    ],
)
def test_weights_are_in_detectrons_catalogue(row, file):
    name = get_config(row).train.init_checkpoint
    assert name.startswith("catalog://")
    address = ModelCatalog.get(name.removeprefix("catalog://"))
    assert address == f"https://dl.fbaipublicfiles.com/detectron/{file}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_its_attention_is_deterministic_on_cuda():
    block = NonLocalBlock(16).cuda()
    nn.init.ones_(block.output.norm.weight)
    x = torch.rand(2, 16, 20, 30, device="cuda", requires_grad=True)
    before = torch.backends.cuda.mem_efficient_sdp_enabled()
    try:
        make_deterministic()
        torch.use_deterministic_algorithms(True)  # an error, not a warning
        block(x).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_mem_efficient_sdp(before)
    assert x.grad.isfinite().all()
