"""What a mapped module takes of the part, and how many levels of logic lie between its registers.

A bit of a net is a number, a constant or floating bit a word.  Arcs go from bit to bit and weigh levels:

    register ──0──► LUT ──1──► carry chain ──1 for every CARRY8──► LUT RAM ──1──► register
    block RAM ──2──►        multiplier without registers ──5──►        MUXF, inverter ──0──►

docs/resources.md gives the reasons.  A module that is instantiated is one cell of its parent, with the levels from its
inputs to its registers, from its registers to its outputs, and straight through.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from .parts import COST, DSP_SUMS, KINDS

__all__ = ["Timing", "count", "timing"]

_REGISTERS = ("FDRE", "FDSE", "FDCE", "FDPE")
_BLOCK_MEMORIES = ("RAMB18E2", "RAMB36E2", "URAM288")
_FREE = ("INV", "BUF", "BUFG", "MUXF7", "MUXF8", "MUXF9", "$scopeinfo")
_CLOCKS = {"C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
_BLOCK_LEVELS, _MULTIPLIER_LEVELS = 2, 5


@dataclass
class Timing:
    """Levels of one module. ``levels``: the longest way from register to register, in it or through what it instantiates;
    ``path``: the cells of that way, with modules that it passes.  A pin is a pair (port, bit)."""

    levels: int
    path: tuple[str, ...]
    to_register: dict[tuple[str, int], int]
    from_register: dict[tuple[str, int], int]
    through: dict[tuple[str, int], dict[tuple[str, int], int]]

    @property
    def with_pins(self) -> int:
        """The longest way when whatever lies beyond the pins are registers."""
        return max([self.levels, *self.to_register.values(), *self.from_register.values(),
                    *(levels for arcs in self.through.values() for levels in arcs.values())])


def _next_carries(cells):
    """{name of a CARRY4: place in its chain}, the first of a chain at 0."""
    ends = {connections["CO"][3]: name for kind, connections, name in cells if kind == "CARRY4" and len(connections["CO"]) > 3}
    before = {name: ends.get(connections["CI"][0]) for kind, connections, name in cells if kind == "CARRY4"}
    places: dict[str, int] = {}
    for name in before:
        chain = []
        while name is not None and name not in places:
            chain.append(name)
            name = before[name]
        place = -1 if name is None else places[name]
        for link in reversed(chain):
            places[link] = place = place + 1
    return places


def count(cells) -> dict[str, float]:
    """{kind of resource: how many} of the cells [type, connections, name] of one module, without what it instantiates."""
    taken = Counter({kind: 0 for kind in KINDS})
    for kind, _, _ in cells:
        if kind in COST:
            taken[COST[kind][0]] += COST[kind][1]
    taken["carry8"] = sum(place % 2 == 0 for place in _next_carries(cells).values())
    taken["lut_cells"] = taken["lut"]
    taken["lut"] -= _second_outputs(cells)
    sums = Counter(kind for kind, _, _ in cells)
    taken["dsp"] += sum(-(-sums[kind] // together) for kind, together in DSP_SUMS.items())
    return dict(taken)


def _second_outputs(cells):
    """LUT cells that are the second output of the LUT of another cell, where the part leaves no choice.

    A bit of a carry chain takes DI from the second output (O5) of the LUT that drives S: the two are one LUT when they
    have at most five inputs together and nothing else reads DI. The LUT of S itself may: it is then the same function of
    the inputs of both. And a LUT holds two shift registers of 16 bits that have
    address, enable and clock in common.  (AMD UG574, chapters CLB slice resources: carry logic, shift registers.)
    """
    drivers, readers = {}, Counter()
    shifts: Counter = Counter()
    for kind, pins, _ in cells:
        if kind.startswith("LUT"):
            drivers[pins["O"][0]] = frozenset(bits[0] for port, bits in pins.items() if port != "O" and isinstance(bits[0], int))
        elif kind == "SRL16E":
            shifts[tuple(pins[port][0] for port in ("A0", "A1", "A2", "A3", "CE", "CLK"))] += 1
        for port, bits in pins.items():
            if not (kind.startswith("LUT") and port == "O"):
                readers.update(bits)
    second = sum(n // 2 for n in shifts.values())
    for kind, pins, _ in cells:
        if kind == "CARRY4":
            second += sum(
                di != s and di in drivers and s in drivers and readers[di] == 1 + (di in drivers[s])
                and len(drivers[di] | drivers[s] - {di}) <= 5
                for di, s in zip(pins["DI"], pins["S"]))
    return second


class _Graph:
    """Bits, arcs between them, where ways begin and end."""

    def __init__(self, netlist, children):
        self.before = defaultdict(list)     # bit -> [(bit before it, levels, what lies between)]
        self.starts: dict = {}              # bit -> (levels from a register, register)
        self.ends: dict = {}                # bit -> (levels to a register, register)
        places = _next_carries(netlist["cells"])
        for kind, pins, name in netlist["cells"]:
            if kind in _REGISTERS or kind in _BLOCK_MEMORIES:
                self._storage(kind, pins, ("Q",) if kind in _REGISTERS else None, 0 if kind in _REGISTERS else _BLOCK_LEVELS)
            elif kind.startswith("LUT") or kind in _FREE:
                self._all(kind, pins, ("O",), int(kind.startswith("LUT")))
            elif kind == "CARRY4":
                self._carry(pins, places[name])
            elif kind.startswith("SRL"):
                self._storage(kind, pins, ("Q", "Q15", "Q31"), 1)
                self._all(kind, {key: pins[key] for key in pins if key[0] in "AQ"}, ("Q",), 1)
            elif kind.startswith("RAM"):
                self._memory(kind, pins)
            elif kind == "DSP48E2" or kind in DSP_SUMS:
                self._multiplier(kind, pins, name)
            elif kind in children:
                self._child(kind, pins, children[kind])
            else:
                raise RuntimeError(f"A mapped netlist must hold known cells only, not {kind}")

    def _arc(self, source, target, levels, cell):
        if isinstance(source, int):
            self.before[target].append((source, levels, cell))

    def _start(self, bit, levels, cell):
        if isinstance(bit, int) and levels >= self.starts.get(bit, (-1,))[0]:
            self.starts[bit] = (levels, cell)

    def _end(self, bit, levels, cell):
        if isinstance(bit, int) and levels >= self.ends.get(bit, (-1,))[0]:
            self.ends[bit] = (levels, cell)

    def _all(self, kind, pins, outputs, levels):
        for port, bits in pins.items():
            if port not in outputs:
                for bit in bits:
                    for output in outputs:
                        for target in pins.get(output, ()):
                            self._arc(bit, target, levels, kind)

    def _storage(self, kind, pins, outputs, levels):
        for port, bits in pins.items():
            is_output = port in outputs if outputs else port.startswith(("DOUT", "CASDOUT", "DOUTP"))
            for bit in bits:
                if is_output:
                    self._start(bit, levels, kind)
                elif port not in _CLOCKS:
                    self._end(bit, 0, kind)

    def _carry(self, pins, place):
        for j in range(4):
            for target in (*pins["O"][j:j + 1], *pins["CO"][j:j + 1]):
                self._arc(pins["CI"][0], target, int(place % 2 == 0), "CARRY8")
                for source in (*pins["CYINIT"], *pins["S"][:j + 1], *pins["DI"][:j + 1]):
                    self._arc(source, target, 1, "CARRY8")

    def _memory(self, kind, pins):
        outputs = [port for port in pins if port in ("O", "DPO", "SPO") or port.startswith("DO")]
        for output in outputs:
            letter = output[2:] if output.startswith("DO") else ""
            address = [port for port in pins if port == f"ADDR{letter}" or (
                not letter and (port.startswith("DPRA") if output == "DPO" else _is_address(port)))]
            for target in pins[output]:
                self._start(target, 1, kind)
                for port in address:
                    for bit in pins[port]:
                        self._arc(bit, target, 1, kind)
        for port, bits in pins.items():
            if port not in outputs and port not in _CLOCKS:
                for bit in bits:
                    self._end(bit, 0, kind)

    def _multiplier(self, kind, pins, name):
        outputs = [port for port in pins if port in ("P", "Y", "PCOUT", "ACOUT", "BCOUT", "CARRYOUT", "CARRYCASCOUT")]
        if any(isinstance(bit, int) for bit in pins.get("CLK", ())):
            for port, bits in pins.items():
                for bit in bits:
                    if port in outputs:
                        self._start(bit, 0, kind)
                    elif port not in _CLOCKS:
                        self._end(bit, 0, kind)
            return
        for port, bits in pins.items():
            for bit in bits:
                if port in outputs:
                    self.before[bit].append((name, 0, kind))
                else:
                    self._arc(bit, name, _MULTIPLIER_LEVELS, kind)

    def _child(self, kind, pins, timing):
        for (port, i), levels in timing.to_register.items():
            self._end(pins[port][i], levels, kind)
        for (port, i), levels in timing.from_register.items():
            self._start(pins[port][i], levels, kind)
        for (port, i), arcs in timing.through.items():
            for (source, j), levels in arcs.items():
                self._arc(pins[source][j], pins[port][i], levels, kind)


def _is_address(port):
    """Whether a port of a LUT RAM with single bits as ports is an address bit: A0 .. A5, or the bus A."""
    return port == "A" or (port[0] == "A" and port[1:].isdigit())


def timing(netlist, children: dict[str, Timing]) -> Timing:
    """Levels of a module of `synthesise`, given those of the modules it instantiates.

    Raises
    ------
    RuntimeError
        When signals go round in a circle without a register, or a cell is unknown.
    """
    graph = _Graph(netlist, children)
    try:
        sorter = TopologicalSorter({bit: {source for source, _, _ in arcs} for bit, arcs in graph.before.items()})
        order = list(sorter.static_order())
    except CycleError as error:
        raise RuntimeError("A module must have a register in every circle of signals") from error
    pins = {direction: {(port, i): bit for port, spec in netlist["ports"].items() if spec["direction"] == direction
                        for i, bit in enumerate(spec["bits"]) if isinstance(bit, int)} for direction in ("input", "output")}

    # Forwards: levels from the last register before a bit.
    arrival = {bit: levels for bit, (levels, _) in graph.starts.items()}
    last: dict = {}
    for bit in order:
        for source, levels, cell in graph.before.get(bit, ()):
            if source in arrival and arrival[source] + levels > arrival.get(bit, -1):
                arrival[bit] = arrival[source] + levels
                last[bit] = (source, levels, cell)
    # Backwards: levels to the next register behind a bit, and whether an output lies behind it.
    departure = {bit: levels for bit, (levels, _) in graph.ends.items()}
    leads_out = set(pins["output"].values())
    for bit in reversed(order):
        for source, levels, _ in graph.before.get(bit, ()):
            if bit in departure:
                departure[source] = max(departure.get(source, -1), departure[bit] + levels)
            if bit in leads_out:
                leads_out.add(source)
    # Straight through, only along bits that lead out.
    ways: dict = {bit: {pin: 0} for pin, bit in pins["input"].items() if bit in leads_out}
    for bit in order:
        if bit in leads_out:
            for source, levels, _ in graph.before.get(bit, ()):
                for pin, so_far in ways.get(source, {}).items():
                    found = ways.setdefault(bit, {})
                    found[pin] = max(found.get(pin, -1), so_far + levels)

    worst, levels = None, 0
    for bit, (more, _) in graph.ends.items():
        if bit in arrival and arrival[bit] + more > levels:
            worst, levels = bit, arrival[bit] + more
    return Timing(
        levels=levels, path=_path(graph, last, worst),
        to_register={pin: departure[bit] for pin, bit in pins["input"].items() if bit in departure},
        from_register={pin: arrival[bit] for pin, bit in pins["output"].items() if bit in arrival},
        through={pin: ways[bit] for pin, bit in pins["output"].items() if bit in ways})


def _path(graph, last, bit):
    """Cells from register to register, without those that are free."""
    if bit is None:
        return ()
    cells = [graph.ends[bit][1]]
    while bit in last:
        bit, levels, cell = last[bit]
        if levels:
            cells.append(cell)
    cells.append(graph.starts[bit][1])
    return tuple(reversed(cells))
