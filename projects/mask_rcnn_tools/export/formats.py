"""Writing and running a detector's graph in each format.

Every file holds metadata as JSON: ONNX in the entry `metadata` of its metadata, the other formats
in the extra file `metadata.json`.
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

RunExported = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Maps an image (3, H, W) uint8 to outputs by name."""

SUFFIXES = {
    "torch_export": (".pt2",),
    "torchscript": (".ts", ".pt", ".torchscript"),
    "onnx": (".onnx",),
}
"""File suffixes of each format."""

METADATA = "metadata"
ONNX_OPSET = 17
_EXTRA_FILE = f"{METADATA}.json"


def write_torchscript(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Traces the graph and writes a TorchScript archive.

    Args:
        graph: The graph, on the CPU.
        example: Image (3, H, W) uint8 for tracing.
        path: Output file.
        metadata: Metadata for JSON.
    """
    with torch.no_grad(), _without_warnings():
        traced = torch.jit.trace(graph, (example,), check_trace=False)
        torch.jit.save(traced, os.fspath(path), _extra_files={_EXTRA_FILE: json.dumps(metadata)})


def write_torch_export(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Exports the graph with any height and width, and writes an `ExportedProgram`.

    Exporting specializes sides of size 1, so each side of the example and of all later images must
    be at least :func:`smallest_side`.
    """
    size = {"image": {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}}
    with torch.no_grad(), _without_warnings():
        program = torch.export.export(graph, (example,), dynamic_shapes=size, strict=False)
        _allow_few_boxes(program)
        torch.export.save(program, path, extra_files={_EXTRA_FILE: json.dumps(metadata)})


def write_onnx(
    graph: DetectorGraph, example: torch.Tensor, path: Path, metadata: dict[str, Any]
) -> None:
    """Traces the graph, converts it to ONNX and writes it with its weights.

    Uses the converter of traced graphs. The one of `torch.export` gives the same numbers at the
    same speed, is 40x slower, and does not support the loop over keypoints.
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
    """Returns the minimum side of an image. No map of `torch_export` may have one cell."""
    strides = graph.rpn.proposal_generator.anchor_generator.strides
    return 1 + max(strides) if kind == "torch_export" else 1


def open_exported(path: str | os.PathLike[str]) -> tuple[RunExported, dict[str, Any]]:
    """Opens an exported file of any format, on the CPU.

    PyTorch files contain code: open only files that you trust.

    Returns:
        A function that maps an image (3, H, W) uint8 to outputs by name, and the metadata.

    Raises:
        ConfigError: The suffix is unknown, the file cannot be opened, or this project did not
            write it.
    """
    path = Path(path)
    kind = format_of(path)
    try:
        return _open_onnx(path) if kind == "onnx" else _open_torch(path, kind)
    except UserError:
        raise
    except Exception as error:  # the runtimes have their own errors
        reason = "it does not exist" if not path.is_file() else str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be opened as {kind}: {reason}.") from error


def _open_torch(path: Path, kind: str) -> tuple[RunExported, dict[str, Any]]:
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
    """Returns the format of a file by its suffix.

    Raises:
        ConfigError: The suffix is unknown.
    """
    for kind, suffixes in SUFFIXES.items():
        if path.suffix in suffixes:
            return kind
    known = "; ".join(f"{kind}: {', '.join(suffixes)}" for kind, suffixes in SUFFIXES.items())
    raise ConfigError(f"{path} has the unknown suffix {path.suffix!r}. Known are {known}.")


def _open_onnx(path: Path) -> tuple[RunExported, dict[str, Any]]:
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
        raise ConfigError(f"{path} has no metadata: tools/export.py did not write it.")
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def _allow_few_boxes(program: ExportedProgram) -> None:
    """Removes the runtime checks that non-maximum suppression keeps at least two boxes.

    They result from torchvision's declaration of the operator, and images with fewer objects would
    fail them. The exported code does not depend on them.
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
    """Registers `frac`, which RoIWarp uses, with the converter inside the block."""

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
    """Silences known warnings of exporters: sizes that Python sees, and deprecations."""
    serializer = logging.getLogger("torch._export.serde.serialize")
    level = serializer.level
    serializer.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        serializer.setLevel(level)
