"""Detectron2's compiled evaluation (`COCOeval_opt`), built without the rest of its extension.

Wheels of Detectron2 as Python files alone lack it. It needs a folder of Detectron2's sources, a
C++ compiler and ninja, but no CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

SOURCES = Path("detectron2", "layers", "csrc", "cocoeval")
"""Folder of the evaluation's C++ files in a checkout."""

_NAME = "detectron2_cocoeval"
_CODE = """\
#include "cocoeval.cpp"
namespace coco = detectron2::COCOeval;
PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<coco::InstanceAnnotation>(module, "InstanceAnnotation")
      .def(py::init<uint64_t, double, double, bool, bool>());
  py::class_<coco::ImageEvaluation>(module, "ImageEvaluation").def(py::init<>());
  module.def("COCOevalEvaluateImages", &coco::EvaluateImages);
  module.def("COCOevalAccumulate", &coco::Accumulate);
}
"""


def add_source_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--detectron2-source`."""
    parser.add_argument(
        "--detectron2-source",
        metavar="FOLDER",
        help="checkout or unpacked source archive of Detectron2, from which its COCOeval_opt is "
        "built if the installed Detectron2 lacks it",
    )


def find_extension(source: str | None) -> tuple[str, str]:
    """Returns the file of the extension, or "" and a sentence that says why there is none.

    Args:
        source: Folder of Detectron2's sources. Not needed if the installed Detectron2 has its
            extension.

    Raises:
        FileNotFoundError: The folder does not hold the C++ files.
    """
    with contextlib.suppress(ImportError):
        from detectron2 import _C

        return str(_C.__file__), ""
    if source is None:
        return "", (
            "Detectron2's COCOeval_opt takes no part: the installed Detectron2 has no compiled "
            "extension. --detectron2-source FOLDER builds it from a checkout of Detectron2."
        )
    return _build(Path(source)), ""


def fast_evaluation(file: str) -> Any:
    """Returns Detectron2's `COCOeval_opt` with the extension of :func:`find_extension`, or None."""
    if not file:
        return None
    import detectron2
    import torch  # noqa: F401  # loads libraries that the extension needs

    try:
        from detectron2 import _C  # noqa: F401
    except ImportError:
        spec: Any = importlib.util.spec_from_file_location(_NAME, file)
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        detectron2._C = sys.modules["detectron2._C"] = module
    from detectron2.evaluation import coco_evaluation
    from detectron2.evaluation.fast_eval_api import COCOeval_opt

    coco_evaluation.COCOeval_opt = COCOeval_opt  # it may have been imported without the extension
    return COCOeval_opt


def _build(source: Path) -> str:
    from torch.utils.cpp_extension import load_inline

    folder = source.resolve() / SOURCES
    if not (folder / "cocoeval.cpp").is_file():
        raise FileNotFoundError(
            f"--detectron2-source {source}: there is no {SOURCES / 'cocoeval.cpp'} in it. Give a "
            "checkout (git clone https://github.com/facebookresearch/detectron2) or an unpacked "
            "source archive."
        )
    module: Any = load_inline(  # built anew if a file changed
        _NAME,
        cpp_sources=_CODE,
        extra_cflags=["-O3"],
        extra_include_paths=[str(folder)],
        no_implicit_headers=True,
    )
    return str(module.__file__)
