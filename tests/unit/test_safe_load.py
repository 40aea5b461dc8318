"""Loading never runs code, reads what honest files hold, and reports damage."""

import contextlib
import io
import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.engine.checkpoint import safe_load
from mask_rcnn_repro.engine.checkpoint.safe_load import safe_pickle_load, safe_torch_load
from mask_rcnn_repro.errors import CheckpointError

CONTENT = {
    "model": OrderedDict(weight=torch.arange(6.0).reshape(2, 3)),
    "float": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3)),
    "text": np.array(["a", "bc"]),
    "scalar": np.float32(3.5),
    "python_random": random.Random(0).getstate(),
    "numpy_random": np.random.RandomState(0).get_state(),
    "bytes": b"\x00\xff",
    "nested": [(1, 2.5), {"x": None, "y": True}, {1, 2}],
}


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickle(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert_equal(safe_pickle_load(tmp_path / "a.pkl"), CONTENT)


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_honest_torch_file(tmp_path, zip_format):
    torch.save(CONTENT, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    assert_equal(safe_torch_load(tmp_path / "a.pth"), CONTENT)
    assert_equal(safe_torch_load(tmp_path / "a.pth", mmap=True), CONTENT)


def test_python_2_pickle_with_latin1_bytes(tmp_path):
    # what Python 2 wrote for {'w': np.array([1., -2.], '<f4')}: byte strings, not unicode
    data = np.array([1.0, -2.0], "<f4").tobytes()
    raw = (
        b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85U\x01b\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87R"
        b"q\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(data)])
        + data
        + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(raw)
    assert_equal(safe_pickle_load(tmp_path / "a.pkl"), {"w": np.array([1.0, -2.0], np.float32)})


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def global_opcode(name, *rest):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode() + b"".join(rest)


def payloads(marker):
    command = f"touch {marker}"
    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s.encode()  # noqa: E731
    call = text(command) + b"\x85R."
    return {
        "reduce os.system": (pickle.dumps({"model": Calls(os.system, command)}, 2), "system"),
        "reduce eval": (pickle.dumps(Calls(eval, f"open({str(marker)!r}, 'w')"), 2), "eval"),
        "reduce open": (pickle.dumps(Calls(open, str(marker), "w"), 2), "open"),
        "getattr": (b"\x80\x02" + global_opcode("builtins.getattr") + b"0N.", "getattr"),
        "import": (pickle.dumps(Calls(__import__, "this"), 2), "__import__"),
        "numpy loader": (global_opcode("numpy.load", text(str(marker)), b"\x85R."), "load"),
        "inst": (b"(" + text(command) + b"ios\nsystem\n.", "os.system"),
        "dotted name": (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.", "Ordered"),
        "torch loader": (global_opcode("torch.load", text("x"), b"\x85R."), "torch.load"),
        "partial": (global_opcode("functools.partial", call), "functools.partial"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("attack", payloads("x"))
@pytest.mark.parametrize("kind", ["pickle", "torch", "torch zip"])
def test_malicious_file_is_refused(tmp_path, attack, kind):
    marker = tmp_path / "executed"
    raw, wanted = payloads(marker)[attack]
    path = tmp_path / ("evil.pkl" if kind == "pickle" else "evil.pth")
    if kind == "torch zip":
        torch.save({}, path)
        rewrite_data(path, raw)
    else:
        path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="evil") as caught:
        (safe_pickle_load if kind == "pickle" else safe_torch_load)(path)
    assert not marker.exists()
    if kind == "pickle":
        assert wanted in str(caught.value) and "refused" in str(caught.value)


def rewrite_data(path, raw):
    """Puts another pickle into a torch archive."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, raw if name.endswith("data.pkl") else content)


def test_payload_works_when_loaded_carelessly(tmp_path):
    """The attacks above are real ones."""
    raw, _ = payloads(tmp_path / "executed")["reduce os.system"]
    pickle.loads(raw)
    assert (tmp_path / "executed").exists()


def test_torch_refusal_names_the_global(tmp_path):
    torch.save({"model": Calls(os.system, "true")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth.*refused.*posix.system"):
        safe_torch_load(tmp_path / "evil.pth")


def test_build_cannot_change_what_is_handed_out(tmp_path):
    """BUILD with a state sets attributes on functions and classes that are not closed to it."""
    before = dict(vars(safe_load._Array)), dict(vars(safe_load._Dtype))
    state = b"}U\x08__init__K\x01s"
    states = [b"N" + state + b"\x86", state]
    for name in ("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct"):
        for one in states:
            (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + global_opcode(name, one, b"b."))
            with pytest.raises(CheckpointError):
                safe_pickle_load(tmp_path / "a.pkl")
            with pytest.raises(CheckpointError):
                safe_torch_load(tmp_path / "a.pkl")
    raw = b"\x80\x02" + global_opcode("collections.OrderedDict", states[0], b"b.")
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(CheckpointError):
        safe_pickle_load(tmp_path / "a.pkl")
    assert before == (dict(vars(safe_load._Array)), dict(vars(safe_load._Dtype)))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}, None], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
    ],
)
def test_only_plain_arrays(tmp_path, array):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array}, 2))
    with pytest.raises(CheckpointError, match="not allowed"):
        safe_pickle_load(tmp_path / "a.pkl")
    torch.save({"a": array}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not allowed"):
        safe_torch_load(tmp_path / "a.pth")


def test_array_with_wrong_length_is_refused(tmp_path):
    raw = pickle.dumps(np.arange(4, dtype=np.int32), 2)
    # shape (4,) -> (100,): reading beyond the data
    assert raw.count(b"K\x04\x85") == 1
    (tmp_path / "a.pkl").write_bytes(raw.replace(b"K\x04\x85", b"K\x64\x85"))
    with pytest.raises(CheckpointError):
        safe_pickle_load(tmp_path / "a.pkl")


@pytest.mark.parametrize("load", [safe_pickle_load, safe_torch_load])
def test_missing_empty_and_garbage(tmp_path, load):
    with pytest.raises(CheckpointError, match=r"nowhere.*does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        load(tmp_path / "empty")
    for number, garbage in enumerate([b"\x00", b"hello world", b"PK\x03\x04rest", b"\x80\x02]"]):
        (tmp_path / f"garbage{number}").write_bytes(garbage)
        with pytest.raises(CheckpointError, match=f"garbage{number}.*cannot be read"):
            load(tmp_path / f"garbage{number}")


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


SMALL = {"model": {"w": torch.arange(20.0), "b": torch.zeros(3)}, "iteration": 7}
TORCH_BYTES, PICKLE_BYTES = saved(SMALL), pickle.dumps({"w": np.arange(20.0), "i": [7, "x"]})


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, len(TORCH_BYTES) - 1))
def test_cut_torch_file(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "cut.pth"
    path.write_bytes(TORCH_BYTES[:length])
    with pytest.raises(CheckpointError):
        safe_torch_load(path)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, len(PICKLE_BYTES) - 1))
def test_cut_pickle(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "cut.pkl"
    path.write_bytes(PICKLE_BYTES[:length])
    with pytest.raises(CheckpointError):
        safe_pickle_load(path)


# the bit that makes a part of the archive a folder, which PyTorch then does not read
FOLDER_BIT = TORCH_BYTES.rindex(b"PK\x01\x02", 0, TORCH_BYTES.rindex(b"archive/data/0")) + 38


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(TORCH_BYTES) - 1), bit=st.integers(0, 7))
@example(place=FOLDER_BIT, bit=4)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bit_never_gives_other_weights(tmp_path_factory, place, bit):
    raw = bytearray(TORCH_BYTES)
    raw[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pth"
    path.write_bytes(raw)
    try:
        loaded = safe_torch_load(path)
    except CheckpointError:
        return
    assert_equal(loaded, SMALL)  # the flip was in padding


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(PICKLE_BYTES) - 1), bit=st.integers(0, 7))
def test_flipped_bit_in_pickle_raises_nothing_else(tmp_path_factory, place, bit):
    raw = bytearray(PICKLE_BYTES)
    raw[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pkl"
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):  # anything else fails the test
        safe_pickle_load(path)
