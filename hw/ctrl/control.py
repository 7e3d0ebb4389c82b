"""The run of a program, from start to done, or to an error and through the flush that follows.

::

                 start, launch good
    IDLE ------> CLEAR ----> START ---> RUN ---- END, all finished, quiet for 8 cycles ----> IDLE, done
      ^            | launch bad          |
      |            v                     | first error, watchdog, or reset written
      +------ IDLE, error                v
      +--------------------------- DRAIN: units in reset, ports flushed, until memory has answered everything

Quiet for 8 cycles: no unit at work, nothing outstanding at any port. A word in a buffer between two rooms, unseen by
both, arrives within that time.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..links import Launch
from ..mem.links import ErrorReport
from ..regs import Error

__all__ = ["RunControl"]

_CLEAR_CYCLES = 4
_QUIET_CYCLES = 8


class RunControl(wiring.Component):
    """
    Parameters
    ----------
    n_reports : units that may report an error
    token_lanes, max_positions : what a launch may ask for

    Members
    -------
    start, reset, clear_done : strobes from the registers. ``start`` counts when nothing runs and nothing drains
    n_tokens, first_position, program_count, watchdog_cycles : registers
    reports : n_reports ErrorReports; the first in time counts, the lowest number of those that come together
    finished : END was reached and all is finished
    units_idle : no unit has work left that ``finished`` does not know of (a record on its way to the writer)
    ports_idle : readers, writer and fetch are idle
    progress : something moved: a beat, a descriptor issued, a unit done
    oldest : index for WATCHDOG
    launch : constant during a run
    unit_reset : hold units and dispatch in reset
    flush : flush readers, writer and fetch
    fetch_start : strobe: fetch the program
    busy, done, error, draining, error_code, error_index : STATUS and the two registers
    running : counters count; ``clear_counters`` strobes before

    LAUNCH: n_tokens not in 1 .. token_lanes, or first_position + n_tokens > max_positions.
    FETCH at index 0: program_count not in 1 .. 65536.
    """

    def __init__(self, *, n_reports, token_lanes, max_positions):
        if not isinstance(n_reports, int) or n_reports < 1:
            raise ValueError(f"n_reports must be a positive integer, not {n_reports!r}")
        if not isinstance(token_lanes, int) or not 1 <= token_lanes <= 16:
            raise ValueError(f"token_lanes must be an integer of 1 to 16, not {token_lanes!r}")
        if not isinstance(max_positions, int) or not 1 <= max_positions <= 1 << 16:
            raise ValueError(f"max_positions must be an integer of 1 to 65536, not {max_positions!r}")
        self._n_reports, self._token_lanes, self._max_positions = n_reports, token_lanes, max_positions
        super().__init__({
            "start": In(1), "reset": In(1), "clear_done": In(1),
            "n_tokens": In(32), "first_position": In(32), "program_count": In(32), "watchdog_cycles": In(32),
            "reports": In(ErrorReport).array(n_reports),
            "finished": In(1), "units_idle": In(1), "ports_idle": In(1), "progress": In(1), "oldest": In(16),
            "launch": Out(Launch), "unit_reset": Out(1), "flush": Out(1), "fetch_start": Out(1),
            "busy": Out(1), "done": Out(1), "error": Out(1), "draining": Out(1),
            "error_code": Out(4), "error_index": Out(16),
            "running": Out(1), "clear_counters": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        reports = [Signal(ErrorReport, name=f"report_{number}") for number in range(self._n_reports)]
        m.d.sync += [kept.eq(report) for kept, report in zip(reports, self.reports)]
        first = Signal(ErrorReport)             # of one cycle's reports
        for report in reversed(reports):
            with m.If(report.valid):
                m.d.comb += first.eq(report)
        reported = Signal(ErrorReport)
        m.d.sync += reported.eq(first)

        last_position = Signal(33)
        launch_bad, program_bad = Signal(), Signal()
        m.d.sync += [
            last_position.eq(self.first_position + self.n_tokens),
            launch_bad.eq((self.n_tokens == 0) | (self.n_tokens > self._token_lanes)
                          | (last_position > self._max_positions)),
            program_bad.eq((self.program_count == 0) | (self.program_count > 1 << 16)),
        ]

        still_cycles = Signal(32)               # without progress
        expired = Signal()
        m.d.sync += expired.eq((still_cycles >= self.watchdog_cycles) & (self.watchdog_cycles != 0))

        wait = Signal(range(max(_CLEAR_CYCLES, _QUIET_CYCLES)))
        quiet, ports_idle, clean = Signal(), Signal(), Signal()
        m.d.sync += [quiet.eq(self.finished & self.units_idle & self.ports_idle), ports_idle.eq(self.ports_idle)]
        # Both reach far: a register each. They fall while START still waits.
        m.d.sync += [self.unit_reset.eq(clean), self.flush.eq(clean), self.fetch_start.eq(0), wait.eq(0)]

        def fail(code, index):
            m.d.sync += [self.error.eq(1), self.error_code.eq(code), self.error_index.eq(index)]

        with m.If(self.clear_done):
            m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif(self.start):
                    m.d.sync += [self.done.eq(0), self.error.eq(0), self.error_code.eq(0), self.error_index.eq(0)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [self.busy.eq(1), clean.eq(1), self.clear_counters.eq(1)]
                m.d.sync += [
                    self.launch.n_tokens.eq(self.n_tokens), self.launch.first_position.eq(self.first_position),
                    wait.eq(wait + 1),
                ]
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif(wait == _CLEAR_CYCLES - 1):
                    m.d.sync += wait.eq(0)
                    with m.If(launch_bad):
                        fail(Error.LAUNCH, 0)
                        m.next = "IDLE"
                    with m.Elif(program_bad):
                        fail(Error.FETCH, 0)
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "START"
            with m.State("START"):
                m.d.comb += [self.busy.eq(1), self.running.eq(1)]
                m.d.sync += [wait.eq(wait + 1), still_cycles.eq(0)]
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif(wait == _CLEAR_CYCLES - 1):
                    m.d.sync += [wait.eq(0), self.fetch_start.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [self.busy.eq(1), self.running.eq(1)]
                m.d.sync += still_cycles.eq(still_cycles + 1)
                with m.If(self.progress):
                    m.d.sync += still_cycles.eq(0)
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif(reported.valid):
                    fail(reported.code, reported.index)
                    m.next = "DRAIN"
                with m.Elif(expired):
                    fail(Error.WATCHDOG, self.oldest)
                    m.next = "DRAIN"
                with m.Elif(quiet):
                    m.d.sync += wait.eq(wait + 1)
                    with m.If(wait == _QUIET_CYCLES - 1):
                        m.d.sync += self.done.eq(1)
                        m.next = "IDLE"
            with m.State("DRAIN"):
                m.d.comb += [self.draining.eq(1), clean.eq(1)]
                with m.If(wait != _CLEAR_CYCLES - 1):
                    m.d.sync += wait.eq(wait + 1)
                with m.Else():
                    m.d.sync += wait.eq(wait)
                    with m.If(ports_idle):
                        m.next = "IDLE"
        with m.If(self.reset):
            m.d.sync += [self.done.eq(0), self.error.eq(0), self.error_code.eq(0), self.error_index.eq(0),
                         self.fetch_start.eq(0)]
        return m
