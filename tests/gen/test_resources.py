"""The command resources: cutting, counting, levels, and the counts of the engine of tiny."""

import json
from functools import partial
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from click.testing import CliRunner

from celosia.gen import netlist, synthesis
from celosia.gen import resources as command
from celosia.gen.parts import KINDS, XCK26
from celosia.hw.configs import tiny
from celosia.hw.engine.engine import MatmulEngine


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is found and nothing is left."""
    for module in (synthesis, command):
        monkeypatch.setattr(module, "cache_folder", lambda kind: tmp_path / kind)
    return tmp_path / "resources"


class Adder(wiring.Component):
    """A registered sum; the sum before its register is an output as well."""

    def __init__(self, bits):
        self._bits = bits
        super().__init__({"a": In(bits), "b": In(bits), "sum": Out(bits), "early": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.early.eq(self.a + self.b)
        m.d.sync += self.sum.eq(self.early)
        return m


class Pair(wiring.Component):
    """Two equal adders of 32 bits, one behind the other without a register between them."""

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "sum": Out(32), "early": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = Adder(32)
        m.submodules.second = second = Adder(32)
        a, b = Signal(32), Signal(32)
        m.d.sync += [a.eq(self.a), b.eq(self.b)]
        m.d.comb += [first.a.eq(a), first.b.eq(b), second.a.eq(first.early), second.b.eq(first.sum),
                     self.sum.eq(second.sum), self.early.eq(second.early)]
        return m


class Twins(wiring.Component):
    """Two adders side by side."""

    def __init__(self):
        super().__init__({name: direction(8) for pair in "01" for name, direction in (
            (f"a{pair}", In), (f"b{pair}", In), (f"sum{pair}", Out), (f"early{pair}", Out))})

    def elaborate(self, platform):
        m = Module()
        for n in range(2):
            m.submodules[f"adder{n}"] = adder = Adder(8)
            m.d.comb += [adder.a.eq(getattr(self, f"a{n}")), adder.b.eq(getattr(self, f"b{n}")),
                         getattr(self, f"sum{n}").eq(adder.sum), getattr(self, f"early{n}").eq(adder.early)]
        return m


def text(component, name):
    return rtlil.convert(component, name=name, emit_src=False)


def test_equal_modules_are_cut_once():
    cuts = synthesis.cut(text(Twins(), "twins"), holders=["twins"], block_characters=1)
    assert list(cuts) == ["twins.adder0", "twins"]
    assert cuts["twins"].children == (("adder0", "twins.adder0"), ("adder1", "twins.adder0"))
    assert list(synthesis.cut(text(Twins(), "twins"))) == ["twins"]


def test_levels_run_through_modules():
    timings = {}
    for name, module in synthesis.cut(text(Pair(), "pair"), holders=["pair"], block_characters=1).items():
        mapped = synthesis.synthesise(module)
        timings[name] = netlist.timing(mapped, timings)
        if name != "pair":
            assert netlist.count(mapped["cells"]) == {
                "lut": 32, "lut_cells": 32, "ff": 32, "carry8": 4, "bram36": 0, "uram": 0, "dsp": 0}
    assert list(timings) == ["pair.first", "pair.second", "pair"]
    inner = timings["pair.first"]
    # A LUT and four carries to the top bit; nothing lies between two registers inside.
    assert inner.levels == 0 and inner.with_pins == 5 and inner.to_register["a", 0] == 5 and inner.from_register["sum", 31] == 0
    assert inner.through["early", 0] == {("a", 0): 1, ("b", 0): 1} and inner.through["early", 1]["a", 0] == 2
    # The second chain goes on at the bit where the first one is left: a LUT and a carry more.
    assert timings["pair"].levels == 7
    flat, = synthesis.cut(text(Pair(), "pair")).values()
    assert netlist.timing(synthesis.synthesise(flat), {}).levels == 7


class Marked(wiring.Component):
    """Sums of two registers, marked for DSPs: five of 12 bits, one of 24, one of 34 that drops a bit; and one that is not."""

    SUMS = {**{f"small{n}": (12, "simd") for n in range(5)}, "middle": (24, "simd"), "wide": (34, "yes"), "plain": (8, None)}

    def __init__(self):
        super().__init__({port: direction(bits) for name, (bits, _) in self.SUMS.items()
                          for port, direction in ((f"a_{name}", In), (f"b_{name}", In), (f"o_{name}", Out))})

    def elaborate(self, platform):
        m = Module()
        for name, (bits, mark) in self.SUMS.items():
            a, b = Signal(bits, name=f"r_a_{name}"), Signal(bits, name=f"r_b_{name}")
            total = Signal(bits, name=f"sum_{name}", attrs={"use_dsp": mark} if mark else {})
            m.d.sync += [a.eq(getattr(self, f"a_{name}")), b.eq(getattr(self, f"b_{name}")),
                         getattr(self, f"o_{name}").eq(total)]
            m.d.comb += total.eq(a + b)
        return m


def test_sums_that_are_marked_go_into_dsps():
    cut, = synthesis.cut(text(Marked(), "marked")).values()
    mapped = synthesis.synthesise(cut)
    found = netlist.count(mapped["cells"])
    assert found["dsp"] == 2 + 1 + 1 and found["lut"] == 8 and found["carry8"] == 1
    assert netlist.timing(mapped, {}).levels == 5


def carry4(s, di):
    return ["CARRY4", {"S": s, "DI": di, "CI": ["0"], "CYINIT": ["0"], "O": [], "CO": []}, "chain"]


def test_second_outputs_are_no_luts():
    """Bit 0: shared. Bit 1: six inputs together. Bit 2: DI is read elsewhere. Bit 3: DI is a register."""
    def lut(name, inputs, output):
        pins = {f"I{n}": [bit] for n, bit in enumerate(inputs)}
        return [f"LUT{len(inputs)}", pins | {"O": [output]}, name]

    luts = [lut("s0", [2, 3], 10), lut("di0", [2, 4], 20), lut("s1", [2, 3, 4, 5], 11), lut("di1", [6, 7], 21),
            lut("s2", [2, 3], 12), lut("di2", [2, 3], 22), lut("s3", [2, 3], 13)]
    read_again = ["FDRE", {"D": [22], "Q": [30], "C": [1], "CE": ["1"], "R": ["0"]}, "q"]
    cells = [*luts, read_again, carry4([10, 11, 12, 13], [20, 21, 22, 30])]
    counts = netlist.count(cells)
    assert counts["lut_cells"] == 7 and counts["lut"] == 6


def test_second_outputs_may_be_inputs_of_their_own_bit():
    """Bit 0: the LUT of S reads DI. Bit 1: that of another bit does. Bit 2: six inputs together."""
    cells = [["LUT2", {"I0": [2], "I1": [3], "O": [20]}, "di0"], ["LUT2", {"I0": [20], "I1": [4], "O": [10]}, "s0"],
             ["LUT2", {"I0": [2], "I1": [3], "O": [21]}, "di1"], ["LUT2", {"I0": [4], "I1": [5], "O": [11]}, "s1"],
             ["LUT4", {"I0": [2], "I1": [3], "I2": [4], "I3": [5], "O": [22]}, "di2"],
             ["LUT4", {"I0": [22], "I1": [6], "I2": [7], "I3": [21], "O": [12]}, "s2"],
             carry4([10, 11, 12, "0"], [20, 21, 22, "0"])]
    counts = netlist.count(cells)
    assert counts["lut_cells"] == 6 and counts["lut"] == 5


def test_shift_registers_of_one_length_share_a_lut():
    def shift(name, tap, clock=1):
        pins = {"A0": [tap], "A1": ["1"], "A2": ["0"], "A3": ["0"], "CE": ["1"], "CLK": [clock], "D": [5], "Q": [6]}
        return ["SRL16E", pins, name]

    assert netlist.count([shift("a", "1"), shift("b", "1"), shift("c", "1")])["lut"] == 2
    assert netlist.count([shift("a", "1"), shift("b", "0")])["lut"] == 2
    assert netlist.count([shift("a", "1"), shift("b", "1", clock=9)])["lut"] == 2


def test_a_circle_is_refused():
    cells = [["LUT1", {"I0": [2], "O": [3]}, "a"], ["LUT1", {"I0": [3], "O": [2]}, "b"]]
    with pytest.raises(RuntimeError, match="A module must have a register in every circle of signals"):
        netlist.timing({"ports": {}, "cells": cells}, {})


def test_an_unknown_cell_is_refused():
    with pytest.raises(RuntimeError, match="known cells only, not LATCH"):
        netlist.timing({"ports": {}, "cells": [["LATCH", {}, "a"]]}, {})


def test_yosys_that_stops_says_one_sentence():
    with pytest.raises(RuntimeError, match=r"^Yosys must map module x, and stopped: ERROR: .*$"):
        synthesis.synthesise(synthesis.Cut("x", "module \\y\nend\n", ()))


class Toy(wiring.Component):
    """As the accelerator is built, with an adder for an engine."""

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "sum": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = Module()
        core.submodules.engine = engine = Adder(32)
        m.d.sync += [engine.a.eq(self.a), engine.b.eq(self.b)]
        m.d.comb += self.sum.eq(engine.sum)
        return m


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(command, "_text", lambda config: text(Toy(), "celosia"))
    monkeypatch.setattr(synthesis, "cut", partial(synthesis.cut, block_characters=1))


def test_json(toy):
    result = CliRunner().invoke(command.resources, ["--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {*KINDS, "share", "lut_per_mac", "logic_levels", "blocks", "part", "largest_register_array"} <= figures.keys()
    assert figures["config"] == "tiny" and figures["part"] == "XCK26" and figures["logic_levels"] == 5
    assert (figures["lut"], figures["ff"], figures["lut_per_mac"]) == (32, 96, 32 / (2 * 20 * 4))
    assert figures["share"]["lut"] == 32 / XCK26.lut
    assert figures["goals"]["logic_levels"] == {"at_most": 8, "found": 5, "met": True}
    assert set(figures["blocks"]) == {"engine", "core", "top"}
    for block in figures["blocks"].values():
        assert {*KINDS, "lut_cells", "share", "logic_levels"} == block.keys()
    assert [sum(block[kind] for block in figures["blocks"].values()) for kind in KINDS] == [figures[kind] for kind in KINDS]


def test_table(toy):
    output = CliRunner().invoke(command.resources, []).stdout
    assert "no vendor tool" in output and "0.20 LUT a multiply-add" in output and "No memory became registers." in output


def test_what_is_kept_needs_no_yosys(toy, monkeypatch, own_cache):
    first = command.report(tiny, progress=False)

    def refuse(*args, **kwargs):
        raise AssertionError("Yosys was started")

    monkeypatch.setattr(synthesis.subprocess, "run", refuse)
    for path in own_cache.glob("report*"):
        path.unlink()
    assert command.report(tiny, progress=False) == first, "from the netlists"
    monkeypatch.setattr(command, "_text", refuse)
    assert command.report(tiny, progress=False) == first, "from the report"


def test_tables_are_written_between_their_marks(toy, monkeypatch, tmp_path):
    page = tmp_path / "resources.md"
    begin, end = "<!-- Written by `celosia resources --config tiny --write-docs`. -->", "<!-- End of tiny. -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    monkeypatch.setattr(command, "_PAGE", page)
    assert CliRunner().invoke(command.resources, ["--write-docs"]).exit_code == 0
    once = page.read_text()
    assert once.startswith("before\n") and once.endswith("-->\nafter\n") and "old" not in once and "| engine | 32 |" in once
    CliRunner().invoke(command.resources, ["--write-docs"])
    assert page.read_text() == once
    page.write_text("nothing\n")
    result = CliRunner().invoke(command.resources, ["--write-docs"])
    assert result.exit_code == 1 and "resources.md must have the line <!-- Written by" in result.output


def test_parts_of_attention_are_written_where_its_page_has_marks(toy, monkeypatch, tmp_path):
    begin, end = "<!-- Written by `celosia resources --config tiny --write-docs`. -->", "<!-- End of tiny. -->"
    pages = [tmp_path / name for name in ("resources.md", "attention.md")]
    for page in pages:
        page.write_text(f"{begin}\n{end}\n")
    monkeypatch.setattr(command, "_PAGE", pages[0])
    figures = command.report(tiny, progress=False)
    engine = [row | {"module": "celosia.core.attention.slice_0", "instances": 4} for row in command.engine_modules(figures)]
    figures |= {"modules": engine + figures["modules"], "blocks": figures["blocks"] | {"attention": figures["blocks"]["engine"]}}
    command._write_docs(figures)
    written = pages[1].read_text()
    assert written.count("| attention.slice_0 | 4 |") == len(engine) > 0
    assert "| all |  | 32 |" in written and "engine" not in written
    pages[1].write_text("nothing\n")
    command._write_docs(figures)
    assert pages[1].read_text() == "nothing\n"


class Remembering(wiring.Component):
    """A memory with two write ports, for which there is no RAM on the part, and a table that is only read."""

    def __init__(self):
        super().__init__({"address": In(4), "data": In(8), "first": Out(8), "table": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = memory.Memory(shape=8, depth=16, init=[])
        for i in range(2):
            port = array.write_port()
            m.d.comb += [port.addr.eq(self.address ^ 3 * i), port.data.eq(self.data + i), port.en.eq(1)]
        read = array.read_port(domain="comb")
        m.submodules.fixed = fixed = memory.Memory(shape=8, depth=16, init=[7 * i % 251 for i in range(16)])
        look = fixed.read_port(domain="comb")
        m.d.comb += [read.addr.eq(self.address), self.first.eq(read.data), look.addr.eq(self.address), self.table.eq(look.data)]
        return m


def test_memories_that_become_registers_are_named():
    module, = synthesis.cut(text(Remembering(), "remembering")).values()
    assert [array[1:] for array in synthesis.synthesise(module)["registers"]] == [[16, 8]]


def test_engine_of_tiny(request):
    """Every part of the engine takes what it took when the expected file was written, within 2 %."""
    engine = MatmulEngine(
        vector_lanes=tiny.vector_lanes, token_lanes=tiny.token_lanes, engine_rows=tiny.engine_rows, beat_bytes=tiny.beat_bytes,
        max_columns=tiny.max_columns, max_row_groups=tiny.max_row_groups, accumulator_bits=tiny.accumulator_bits,
        table_builders=tiny.table_builders)
    cuts = synthesis.cut(text(engine, "engine"))
    found = {name: netlist.count(synthesis.synthesise(module)["cells"]) for name, module in cuts.items()}
    path = Path(__file__).resolve().parents[1] / "expected" / "resources_tiny_engine.json"
    if request.config.getoption("--update-expected", default=False):
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    assert found.keys() == expected.keys()
    for name, counts in found.items():
        assert counts == pytest.approx(expected[name], rel=0.02), f"{name}: read the difference, then --update-expected"


def test_unknown_configuration():
    result = CliRunner().invoke(command.resources, ["--config", "huge"])
    assert result.exit_code == 1
    assert "Configuration must be one of tiny, duo, kv260, binary-tiny, binary-kv260, not 'huge'" in result.output
