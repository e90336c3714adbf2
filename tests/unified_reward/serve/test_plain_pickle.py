"""Plain data is read from every protocol; nothing else is built, and nothing is called."""

import builtins
import os
import pickle
import struct
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from unified_reward.core.errors import DataError
from unified_reward.serve.plain_pickle import PickleLimits, loads


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
PLAIN = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts) | st.tuples(parts, parts) | st.dictionaries(st.text(), parts, max_size=4)
    ),
    max_leaves=8,
)
PROTOCOLS = range(6)


@settings(max_examples=30)
@given(PLAIN, st.sampled_from(PROTOCOLS))
@example({"a": [b"", "\n\\u\u2028é", (1,) * 5, {}]}, 0)
def test_plain_data_comes_back_from_every_protocol(value, protocol):
    assert loads(pickle.dumps(value, protocol=protocol)) == value


def test_a_value_that_occurs_many_times_is_read_each_time():
    metadata = {"tag": "color", "include": [{"class": "cup", "count": 2}]}
    assert loads(pickle.dumps([metadata] * 64)) == [metadata] * 64


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.array(["a red cube", "ein Würfel"]),
        np.array([[b"ab", b"c"]]),
        np.asfortranarray([["a", "bc"], ["d", ""]]),
        np.array(["a", "b", "c", "d"])[::2],
        np.array(["big"], dtype=">U5"),
        np.array([], dtype="U3"),
    ],
    ids=["U", "S", "fortran", "strided", "big-endian", "empty"],
)
def test_arrays_of_text_come_back_from_every_protocol(array, protocol):
    read = loads(pickle.dumps({"prompts": array}, protocol=protocol))["prompts"]
    assert type(read) is np.ndarray
    np.testing.assert_array_equal(read, array)
    assert read.dtype.kind == array.dtype.kind


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_of_text_come_back_as_str_and_bytes(protocol):
    read = loads(pickle.dumps([np.str_("a cup"), np.bytes_(b"cup")], protocol=protocol))
    assert read == ["a cup", b"cup"]
    assert [*map(type, read)] == [str, bytes]


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_module_names_of_numpy_1_and_2_are_read(protocol):
    prompts = np.array(["a", "b"])
    written = pickle.dumps([prompts, prompts[0]], protocol=protocol)
    assert b"cnumpy._core.multiarray\n" in written
    older = written.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    for data in (written, older):
        array, scalar = loads(data)
        assert [*array, scalar] == ["a", "b", "a"]


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


class Plain:
    """An instance, pickled by its class and state."""

    def __init__(self):
        self.a = 1


class Slotted:
    """An instance that is pickled with keywords of ``__new__``."""

    def __new__(cls, *, a=1):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"a": 2}


def text(value):
    """A string as an opcode."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


MEMO_BOMB = b"\x80\x04]\x94" + b"".join(
    b"]\x94(" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60)
)
REFUSED = {
    "os.system": (pickle.dumps(Calls(os.system, "true")), "posix.system is not built"),
    "eval": (pickle.dumps(Calls(builtins.eval, "1")), "builtins.eval is not built"),
    "getattr": (b"cbuiltins\ngetattr\n" + text("x") + b".", "builtins.getattr is not built"),
    "dotted": (
        b"\x80\x04" + text("numpy") + text("dtype.__init__") + b"\x93.",
        "numpy.dtype.__init__",
    ),
    "INST": (b"(S'true'\nios\nsystem\n.", "STRING"),
    "INST alone": (b"(ios\nsystem\n.", "opcode INST os system"),
    "OBJ": (b"(K\x01o.", "opcode OBJ"),
    "instance": (pickle.dumps(Plain(), 2), "copy_reg._reconstructor|test_plain_pickle.Plain"),
    "NEWOBJ": (b"\x80\x02)\x81.", "opcode NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04))}\x92.", "opcode NEWOBJ_EX"),
    "keywords": (pickle.dumps(Slotted(), 4), "test_plain_pickle.Slotted"),
    "setstate": (b"](K\x01K\x02dX\x01\x00\x00\x00xb.", "keys"),
    "BUILD": (b"}}b.", "opcode BUILD gives a dict"),
    "EXT1": (b"\x82\x01.", "opcode EXT1"),
    "PERSID": (b"Pfile\n.", "opcode PERSID file"),
    "BINPERSID": (b"K\x01Q.", "opcode BINPERSID"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "set": (pickle.dumps({1, 2}, 4), "opcode EMPTY_SET"),
    "PIL": (pickle.dumps({"output_image": [Image.new("RGB", (2, 2))]}), "PIL.Image.Image"),
    "numbers": (pickle.dumps(np.zeros(2)), "'f8' is not one of text"),
    "objects": (pickle.dumps(np.array(["a"], dtype=object), 4), "'O8' is not one of text"),
    "float": (pickle.dumps(np.float64(1), 4), "'f8' is not one of text"),
    "class alone": (b"cnumpy\nndarray\n.", "Global that is incomplete"),
    "array alone": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR.",
        "EmptyArray that is incomplete",
    ),
    "called class": (b"cnumpy\nndarray\n)R.", "calls numpy.ndarray"),
    "called text": (text("os.system") + b")R.", "no function"),
    "decoded": (b"c_codecs\nencode\n" + text("x") + text("zip") + b"\x86R.", "latin1"),
    "huge array": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n" + text("U1") + b"\x85R"
        b"J\xff\xff\xff\x7f\x85" + text("C") + b"tR.",
        "array of 0 bytes does not have shape",
    ),
    "memo bomb": (MEMO_BOMB + b".", "more than 100000 values|end with STOP"),
    "itself": (b"]\x94h\x00a.", "contains itself"),
    "deep": (b"N" + b"\x85" * 100_000 + b".", "within each other"),
    "digits": (b"L" + b"9" * 1_000_000 + b"L\n.", "integer string conversion|digits"),
    "large int": (b"\x8b" + struct.pack("<I", 1000) + b"\x01" * 1000 + b".", "an int of"),
    "length": (b"\x8e" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
    "text length": (b"X\xff\xff\xff\xffx.", "expected 4294967295 bytes"),
    "key": (pickle.dumps({1: 2}), "keys are not str"),
    "surrogate": (pickle.dumps("\ud800"), "not Unicode"),
    "no stack": (b".", "one value"),
    "no mark": (b"K\x01l.", "a mark is missing"),
    "trailing": (pickle.dumps(1) + b"x", "does not end with STOP"),
    "empty": (b"", "exhausted"),
    "noise": (b"\xff\xd8\xff\xe0", "not|opcode"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_by_name_and_nothing_is_called(data, reason, monkeypatch):
    def called(*_):
        raise AssertionError("a pickle was executed")

    for module, name in ((os, "system"), (sys.modules["posix"], "system"), (builtins, "eval")):
        monkeypatch.setattr(module, name, called)
    with pytest.raises(DataError, match=reason):
        loads(data)


@pytest.mark.parametrize("end", range(0, 160, 7))
def test_a_truncated_pickle_is_refused(end):
    data = pickle.dumps({"images": [b"\xff\xd8" * 50], "prompts": np.array(["a", "b"])})
    with pytest.raises(DataError):
        loads(data[:end])


def is_plain(value):
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "US"
    return value is None or type(value) in (str, bytes, int, float, bool, np.str_, np.bytes_)


@settings(max_examples=100)
@given(st.binary(max_size=40))
def test_any_bytes_are_plain_data_or_a_data_error(data):
    for head in (b"", b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01bt"):
        with suppress(DataError):
            assert is_plain(loads(head + data + b"."))


def test_limits_bound_size_and_copies():
    limits = PickleLimits(max_bytes=20_000, max_values=100)
    with pytest.raises(DataError, match="20018 bytes; at most 20000"):
        loads(pickle.dumps(b"x" * 20_000, 5), limits)
    with pytest.raises(DataError, match="more than"):
        loads(pickle.dumps([None] * 1000), limits)
    build = b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86Ra"
    with pytest.raises(DataError, match="bytes are built"):
        loads(b"]" + text("x" * 10_000) + b"\x94a" + build * 3 + b".", limits)
