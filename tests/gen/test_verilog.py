# amaranth: UnusedElaboratable=no
"""Verilog text: deterministic, free of paths, and each distinct unit once."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from celosia.gen.verilog import emit, share_modules


class Adder(wiring.Component):
    def __init__(self, step):
        self._step = step
        super().__init__({"a": In(4), "b": Out(4)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.b.eq(self.a + self._step)
        return m


class Chain(wiring.Component):
    def __init__(self, steps):
        self._steps = steps
        super().__init__({"a": In(4), "b": Out(4)})

    def elaborate(self, platform):
        m = Module()
        value = self.a
        for index, step in enumerate(self._steps):
            m.submodules[f"adder{index}"] = adder = Adder(step)
            m.d.comb += adder.a.eq(value)
            value = Signal(4, name=f"value{index}")
            m.d.comb += value.eq(adder.b)
        m.d.comb += self.b.eq(value)
        return m


def test_same_text_twice():
    assert emit(Chain([1, 2]), "chain") == emit(Chain([1, 2]), "chain")


def test_no_paths(request):
    assert str(request.config.rootpath) not in emit(Chain([1, 2]), "chain")


def test_only_equal_modules_are_merged():
    """Steps 1, 2, 1: two distinct adders stay."""
    text = share_modules(emit(Chain([1, 2, 1]), "chain"))
    assert [line.split("(")[0].strip() for line in text.splitlines() if line.startswith("module ")] == \
        ["module chain", "module \\chain.adder0", "module \\chain.adder1"]
    assert text.count("  \\chain.adder0  adder") == 2


def test_numbers_of_ports_without_a_name_do_not_count():
    """Two equal modules with ports that are numbered on, and one whose ports have changed places."""
    def inverter(name, i, o):
        return f"module \\top.{name} (\\port${i}$0 , \\port${o}$4 );\n  input \\port${i}$0 ;\n  output \\port${o}$4 ;\n" \
            f"  assign \\port${o}$4  = ~ \\port${i}$0 ;\nendmodule\n"

    def instance(name, i, o):
        return f"  \\top.{name}  {name} (\n    .\\port${i}$0 (a[0]),\n    .\\port${o}$4 (b[0])\n  );\n"

    ports = {"one": (98, 99), "two": (99, 100), "three": (101, 100)}
    top = "module top(a, b);\n  input a;\n  output b;\n" + "".join(instance(name, *p) for name, p in ports.items()) + "endmodule\n"
    text = share_modules("\n".join([top, *(inverter(name, *p) for name, p in ports.items())]))
    assert [line.split()[1] for line in text.splitlines() if line.startswith("module ")] == ["top(a,", "\\top.one", "\\top.three"]
    assert text.count("  \\top.one  ") == 2 and text.count(".\\port$0 (a[0])") == 2 and text.count(".\\port$1 (a[0])") == 1


def test_rejects_a_bad_name():
    with pytest.raises(ValueError, match=r"^Module name must be a lower-case identifier, not 'Top-1'$"):
        emit(Chain([1]), "Top-1")
