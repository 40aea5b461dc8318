"""A pretended CUDA device: real values on the CPU, and a device name on every storage.

Inside :func:`pretended_cuda` each tensor's storage carries the name of the device that it would be
on. An operation that mixes devices raises :class:`MixedDevices`, as it would on a GPU, and each
transfer or operation that makes the CPU wait for the GPU is counted (:class:`Waits`).

Not pretended: kernels, streams, memory, autocast (which leaves real CPU tensors alone), and
devices that Python functions of PyTorch read internally.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU, OPEN = "cuda", "cpu", "open"
"""Names of devices. A storage that C++ code made from nothing is open until its first use."""

PACKAGES = ("mask_rcnn_repro", "mask_rcnn_tools", "detectron2", "torchvision")

_FACTORIES = {
    getattr(torch, name)
    for name in (
        *("zeros", "ones", "empty", "full", "arange", "tensor", "as_tensor", "asarray"),
        *("rand", "randn", "randint", "randperm", "linspace", "logspace", "eye", "from_numpy"),
        *("frombuffer", "empty_strided", "scalar_tensor"),
    )
}
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
_LIKE = {
    *(
        getattr(torch, f"{name}_like")
        for name in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")
    ),
    *(
        getattr(torch.Tensor, f"new_{name}")
        for name in ("zeros", "ones", "empty", "full", "tensor", "empty_strided")
    ),
}
_PRINTING = {torch.Tensor.__format__, torch.Tensor.__repr__, torch.Tensor.tolist}
_WAITING = {
    **{f"aten::{name}": name for name in ("nonzero", "masked_select", "equal", "bincount")},
    **{f"aten::{name}": "unique" for name in ("_unique", "_unique2", "unique_dim")},
    "aten::unique_consecutive": "unique",
    "aten::repeat_interleave": "repeat_interleave",
    "aten::_local_scalar_dense": "item",
    "torchvision::nms": "nms",
}
_READING = {"aten::index", "aten::_unsafe_index"}
_WRITING = {"aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_NO_KERNELS = tuple(
    f"aten::{name}"
    for name in (
        *("empty", "new_empty", "detach", "alias", "_unsafe_view", "set_", "resize_"),
        *("is_same_size", "_local_scalar_dense"),
    )
)
_ANY_DEVICES = ("aten::copy_", "aten::_to_copy", "aten::set_", "aten::detach", "aten::alias")


class MixedDevices(RuntimeError):
    """An operation on tensors of different devices."""


class Waits(Counter[tuple[str, str, str]]):
    """Number of waits for the GPU by kind, module and function.

    Kinds are "to cuda", "to cpu", "item", "synchronize" and the operations whose output has a size
    that only the GPU knows. Module and function are those of the innermost frame of
    :data:`PACKAGES`, or empty.

    Attributes:
        operations: Number of operations on the GPU by name, views included.
        kernels: Number of kernels by operation. An operation counts as one kernel, though a few
            run several, such as sorting. A backward pass of a convolution counts as one for each
            gradient. Views, allocations and operations without elements count as none.
    """

    def __init__(self, *counts: Any) -> None:
        super().__init__(*counts)
        self.operations: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()

    def note(self, kind: str) -> None:
        """Counts one wait."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.partition(".")[0] in PACKAGES:
                self[kind, module, frame.f_code.co_name] += 1
                return
            frame = frame.f_back
        self[kind, "", ""] += 1


def device_of(tensor: torch.Tensor) -> str:
    """Returns :data:`CUDA`, :data:`CPU` or :data:`OPEN`."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "pretended", CPU)


def _put(tensor: Any, name: str) -> Any:
    if isinstance(tensor, torch.Tensor):
        with torch._C.DisableTorchFunction():
            tensor.untyped_storage().pretended = name
    return tensor


def _name(device: Any) -> str:
    return CUDA if isinstance(device, int) or torch.device(device).type == "cuda" else CPU


class _Functions(TorchFunctionMode):
    """Answers questions about devices, moves tensors, and makes them where they are asked for."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return torch.device("cuda", 0) if device_of(args[0]) == CUDA else torch.device("cpu")
        if func in (torch.Tensor.is_cuda.__get__, torch.Tensor.is_cpu.__get__):
            asked = CUDA if func == torch.Tensor.is_cuda.__get__ else CPU
            return (device_of(args[0]) == CUDA) == (asked == CUDA)
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func in (torch.Tensor.cuda, torch.Tensor.cpu):
            return self._moved(args[0], CUDA if func is torch.Tensor.cuda else CPU, False)
        if func is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.untyped_storage().is_pinned_here = True
            return pinned
        if func is torch.Tensor.is_pinned:
            return _is_pinned(args[0])
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and device_of(args[0]) == CUDA:
            raise MixedDevices("numpy() of a CUDA tensor")
        if func in _PRINTING and device_of(args[0]) == CUDA:
            self.waits.note("to cpu")
            before = self.waits.copy()
            result = func(*args, **kwargs)
            self.waits.clear()
            self.waits.update(before)
            return result
        if func is torch.Tensor.__deepcopy__:
            return _put(func(*args, **kwargs), device_of(args[0]))
        device = kwargs.pop("device", None)
        if func in _FROM_DATA and isinstance(source := args[0], torch.Tensor):
            result = func(*args, **kwargs)
            return result if device is None else self._moved(result, _name(device), False, source)
        result = func(*args, **kwargs)
        if func in _FACTORIES or func in _LIKE or device is not None:
            name = _name(device) if device is not None else CPU
            if func in _LIKE and device is None:
                name = device_of(args[0])
            if name == CUDA and (func in _FROM_DATA or func is torch.Tensor.new_tensor):
                self.waits.note("to cuda")
            return _put(result, name)
        return result

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device, other = kwargs.pop("device", None), kwargs.pop("other", None)
        non_blocking = kwargs.pop("non_blocking", None)
        for value in args:
            if isinstance(value, torch.Tensor):
                other = value
            elif isinstance(value, torch.dtype):
                kwargs["dtype"] = value
            elif isinstance(value, bool):
                name = "non_blocking" if non_blocking is None else "copy"
                non_blocking = value if non_blocking is None else non_blocking
                kwargs.update({"copy": value} if name == "copy" else {})
            elif value is not None:
                device = value
        if other is not None:
            kwargs.setdefault("dtype", other.dtype)
        here = device_of(tensor)
        wanted = here if device is None else _name(device)
        wanted = wanted if other is None else device_of(other)
        result = tensor.to(**{"dtype": tensor.dtype, **kwargs})
        return self._moved(result, wanted, bool(non_blocking), tensor)

    def _moved(
        self,
        tensor: torch.Tensor,
        wanted: str,
        non_blocking: bool,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        here = device_of(tensor if source is None else source)
        if here == wanted:
            return tensor
        if not (non_blocking and (wanted == CPU or _is_pinned(tensor))):
            self.waits.note(f"to {wanted}")
        return _put(tensor.clone(), wanted)


def _is_pinned(tensor: torch.Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "is_pinned_here", False)


class _Operations(TorchDispatchMode):
    """Checks the devices of each operation's tensors and names that of its results."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = func._schema.name
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        names = [device_of(x) for x in given]
        where = CUDA if CUDA in names else CPU if CPU in names else OPEN
        if where == CUDA:
            self.waits.operations[operation] += 1
            if any(x.numel() for x in given) and not _launches_nothing(func):
                gradients = sum(args[-1]) if operation == "aten::convolution_backward" else 1
                self.waits.kernels[operation] += gradients
            self._check(operation, args, given, names)
        results = func(*args, **kwargs)
        for x, name in zip(given, names, strict=True):
            if name == OPEN and where != OPEN:
                _put(x, where)
        for x in tree_leaves(results):
            if isinstance(x, torch.Tensor) and not hasattr(x.untyped_storage(), "pretended"):
                _put(x, where)
        return results

    def _check(
        self, operation: str, args: Any, given: list[torch.Tensor], names: list[str]
    ) -> None:
        if operation in _WAITING:
            self.waits.note(_WAITING[operation])
        indexing = operation in _READING or operation in _WRITING
        if indexing:
            for index in args[1]:
                if index is None:
                    continue
                if device_of(index) == CPU and index.dim() > 0:
                    self.waits.note("to cuda")
                # one value is written where a mask is true without looking for these places
                spread = operation in _WRITING and args[2].numel() == 1
                if index.dtype in (torch.bool, torch.uint8) and not spread:
                    self.waits.note("nonzero")
        if operation == "aten::copy_" and CPU in names and not (len(args) > 2 and args[2]):
            self.waits.note(f"to {names[0]}")
        if CPU not in names or operation.startswith(_ANY_DEVICES):
            return
        if indexing:  # indices may be on the CPU, and what is read or written may not
            used = [args[0], *(args[2:3] if operation in _WRITING else ())]
            mixed = device_of(args[0]) == CPU or any(
                device_of(x) == CPU and x.dim() > 0 for x in used
            )
        else:
            scalar_operands = not operation.startswith(("aten::cat", "aten::stack", "torchvision"))
            mixed = any(
                name == CPU and not (scalar_operands and x.dim() == 0)
                for x, name in zip(given, names, strict=True)
            )
        if mixed:
            listed = ", ".join(
                f"{name} {tuple(x.shape)}" for x, name in zip(given, names, strict=True)
            )
            raise MixedDevices(f"{operation} of tensors on different devices: {listed}")


def _launches_nothing(func: Any) -> bool:
    """Whether an operation returns a view, allocates, or copies one number to the CPU."""
    aliases = [x.alias_info for x in func._schema.returns]
    if any(alias is not None and not alias.is_write for alias in aliases):
        return True
    return func._schema.name.startswith(_NO_KERNELS)


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Waits]:
    """Context in which CUDA device 0 exists; yields the waits so far, which grow.

    Tensors that were made before are on the CPU.
    """
    waits = Waits()
    answers = {
        "is_available": True,
        "is_initialized": True,
        "_is_in_bad_fork": False,
        "current_device": 0,
        "device_count": 1,
        "get_device_name": "Pretended GPU",
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    silent = ("set_device", "empty_cache", "reset_peak_memory_stats", "manual_seed", "_lazy_init")
    with contextlib.ExitStack() as stack:
        for name, answer in {**answers, **dict.fromkeys(silent), "manual_seed_all": None}.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=answer))
        stack.enter_context(
            mock.patch.object(
                torch.cuda, "synchronize", side_effect=lambda *_: waits.note("synchronize")
            )
        )
        for name, answer in (
            ("is_available", True),
            ("current_accelerator", torch.device("cuda")),
            ("current_stream", mock.Mock(is_capturing=lambda: False)),
        ):
            stack.enter_context(mock.patch.object(torch.accelerator, name, return_value=answer))
        stack.enter_context(_Operations(waits))
        stack.enter_context(_Functions(waits))
        yield waits
