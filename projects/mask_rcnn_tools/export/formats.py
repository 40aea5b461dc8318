"""Writing a detector's graph in each format, and running what was written.

Every file holds its metadata as JSON: in ONNX the entry `metadata` of the model's own, in the
other two the extra file `metadata.json`.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim
from torch.export.exported_program import ExportedProgram

from mask_rcnn_repro.errors import ConfigError, UserError
from mask_rcnn_tools.export.graph import DetectorGraph

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From an image (3, H, W) uint8 to outputs by name."""

SUFFIXES = {
    "torch_export": (".pt2",),
    "torchscript": (".ts", ".pt", ".torchscript"),
    "onnx": (".onnx",),
}
"""Format to the suffixes that a file of it may have."""

METADATA = "metadata"
ONNX_OPSET = 17
_EXTRA_FILE = f"{METADATA}.json"


def write_torchscript(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Traces the graph and writes a TorchScript archive.

    Args:
        graph: On the CPU.
        example: An image (3, H, W) uint8 to trace with.
        path: The file.
        metadata: Plain data.
    """
    with torch.no_grad(), _without_warnings():
        traced = torch.jit.trace(graph, (example,), check_trace=False)
        torch.jit.save(traced, os.fspath(path), _extra_files={_EXTRA_FILE: json.dumps(metadata)})


def write_torch_export(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Exports the graph with any height and width, and writes an `ExportedProgram`.

    What has one cell in the example would have one cell for ever, and the other way round: so each
    side of the example, and of any image later, must be at least :func:`smallest_side`.
    """
    size = {"image": {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}}
    with torch.no_grad(), _without_warnings():
        program = torch.export.export(graph, (example,), dynamic_shapes=size, strict=False)
        _allow_few_boxes(program)
        torch.export.save(program, path, extra_files={_EXTRA_FILE: json.dumps(metadata)})


def write_onnx(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Traces the graph, converts it to ONNX and writes it, with weights inside the file.

    The converter of traced graphs is used: that of `torch.export` gives the same numbers at the
    same speed, takes 40 times as long, and has no loop for keypoints.
    """
    import onnx

    axes = {name: {0: "detections"} for name in graph.output_names}
    if graph.paste_masks:
        axes["masks"] |= {1: "height", 2: "width"}
    with torch.no_grad(), _without_warnings(), _onnx_frac():
        torch.onnx.export(
            graph,
            (example,),
            os.fspath(path),
            dynamo=False,
            opset_version=ONNX_OPSET,
            input_names=["image"],
            output_names=graph.output_names,
            dynamic_axes={"image": {1: "height", 2: "width"}, **axes},
        )
    model = onnx.load(path)
    model.producer_name = "mask_rcnn_repro"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


WRITERS: dict[str, Callable[[DetectorGraph, torch.Tensor, Path, dict[str, Any]], None]] = {
    "torch_export": write_torch_export,
    "torchscript": write_torchscript,
    "onnx": write_onnx,
}


def smallest_side(graph: DetectorGraph, kind: str) -> int:
    """Pixels that each side of an image must have: in `torch_export`, no map may have one cell."""
    strides = graph.rpn.proposal_generator.anchor_generator.strides
    return 1 + max(strides) if kind == "torch_export" else 1


def open_exported(path: str | os.PathLike[str]) -> tuple[Run, dict[str, Any]]:
    """Opens an exported file of any format, on the CPU.

    A file of torch holds code, too: open those alone that you trust.

    Returns:
        A function from an image (3, H, W) uint8 to outputs by name, and the metadata.

    Raises:
        ConfigError: The suffix is of no format, or the file cannot be opened, or is none of this
            project's.
    """
    path = Path(path)
    kind = format_of(path)
    try:
        return _open_onnx(path) if kind == "onnx" else _open_torch(path, kind)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        reason = "it does not exist" if not path.is_file() else str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be opened as {kind}: {reason}.") from error


def _open_torch(path: Path, kind: str) -> tuple[Run, dict[str, Any]]:
    extra: dict[str, Any] = {_EXTRA_FILE: ""}
    module: Any
    with _without_warnings():
        if kind == "torchscript":
            module = torch.jit.load(os.fspath(path), map_location="cpu", _extra_files=extra)
        else:
            module = torch.export.load(path, extra_files=extra).module()
    metadata = _metadata(extra[_EXTRA_FILE], path)
    names = list(metadata["outputs"])

    @torch.no_grad()
    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = module(torch.from_numpy(image))
        return dict(zip(names, (output.numpy() for output in outputs), strict=True))

    return run, metadata


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ConfigError: None.
    """
    for kind, suffixes in SUFFIXES.items():
        if path.suffix in suffixes:
            return kind
    known = "; ".join(f"{kind}: {', '.join(suffixes)}" for kind, suffixes in SUFFIXES.items())
    raise ConfigError(f"{path} has the suffix {path.suffix!r}, which is of no format ({known}).")


def _open_onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    metadata = _metadata(session.get_modelmeta().custom_metadata_map.get(METADATA, ""), path)
    names = [output.name for output in session.get_outputs()]

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {"image": image}), strict=True))

    return run, metadata


def _metadata(text: str | bytes, path: Path) -> dict[str, Any]:
    if not text:
        raise ConfigError(f"{path} holds no metadata: it was not written by tools/export.py.")
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def _allow_few_boxes(program: ExportedProgram) -> None:
    """Takes out the checks that non-maximum suppression keeps two boxes or more.

    torchvision declares its operator so, and exporting makes a check at run time of it, which an
    image with one object or none would fail. Nothing that was exported depends on it.
    """
    module = program.graph_module
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        condition = node.args[0]
        if not isinstance(condition, torch.fx.Node) or condition.target is not operator.ge:
            continue
        size, least = condition.args
        if least != 2 or not _counts_kept_boxes(size):
            continue
        module.graph.erase_node(node)
        if not condition.users:
            module.graph.erase_node(condition)
    module.recompile()
    for symbol, values in list(program.range_constraints.items()):
        if str(symbol).startswith("u") and values.lower == 2:
            program.range_constraints[symbol] = type(values)(0, values.upper)


def _counts_kept_boxes(node: Any) -> bool:
    is_size = getattr(node, "target", None) is torch.ops.aten.sym_size.int
    return is_size and node.args[0].target is torch.ops.torchvision.nms.default


@contextmanager
def _onnx_frac() -> Iterator[None]:
    """Teaches the converter `frac`, by which RoIWarp rounds, for as long as it runs."""

    def frac(g: Any, x: Any) -> Any:
        size = g.op("Abs", x)
        return g.op("Mul", g.op("Sign", x), g.op("Sub", size, g.op("Floor", size)))

    torch.onnx.register_custom_op_symbolic("aten::frac", frac, 9)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::frac", 9)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Exporters warn of what was looked into: sizes that Python sees, and their own age."""
    serializer = logging.getLogger("torch._export.serde.serialize")
    level = serializer.level
    serializer.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        serializer.setLevel(level)
