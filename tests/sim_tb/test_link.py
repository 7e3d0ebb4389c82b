# amaranth: UnusedElaboratable=no
"""Payload values to bits and back."""

import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum
from hypothesis import given
from hypothesis import strategies as st

from celosia.sim_tb.link import pack, unpack


class Mode(enum.Enum, shape=unsigned(2)):
    IDLE = 0
    RUN = 3


class Inner(data.Struct):
    mode: Mode
    scale: signed(5)


Beat = data.StructLayout({"acts": data.ArrayLayout(signed(4), 3), "inner": Inner, "last": 1})


@given(st.lists(st.integers(-8, 7), min_size=3, max_size=3), st.integers(-16, 15), st.sampled_from(Mode), st.booleans())
def test_pack_agrees_with_amaranth(acts, scale, mode, last):
    value = {"acts": acts, "inner": {"mode": mode, "scale": scale}, "last": int(last)}
    bits = pack(Beat, value)
    assert bits == Beat.const(value).as_value().value
    assert unpack(Beat, bits) == value


def test_plain_shapes():
    assert pack(signed(8), -1) == 255 and unpack(signed(8), 255) == -1
    assert pack(8, 255) == 255 and unpack(unsigned(8), 255) == 255


def test_omitted_fields_are_zero():
    assert pack(Beat, {"last": 1}) == 1 << 19


@pytest.mark.parametrize("shape, value", [(signed(8), 128), (signed(8), -129), (unsigned(8), 256), (8, -1)])
def test_rejects_values_out_of_range(shape, value):
    with pytest.raises(ValueError, match=r"^The value must lie between -?\d+ and \d+, not -?\d+$"):
        pack(shape, value)


def test_rejects_an_array_of_another_length():
    with pytest.raises(ValueError, match=r"^The array must have 3 elements, not 2$"):
        pack(Beat, {"acts": [1, 2]})
