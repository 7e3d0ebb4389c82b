"""The run of a program, from start to done, or to an error and through the flush that follows.

::

                 start, launch good
    IDLE ------> CLEAR ----> START ---> RUN ---- END, all finished, quiet for 8 cycles ----> CLOSE ----> IDLE, done
      ^            | launch bad          |
      |            v                     | first error, watchdog, or reset written
      +------ IDLE, error                v
      +--------------------------- DRAIN: units in reset, ports flushed, until memory has answered everything

CLEAR reads LANE of all lanes and finds the segments; CLOSE waits for what is made of the candidates.

Quiet for 8 cycles: no unit at work, nothing outstanding at any port. A word in a buffer between two rooms, unseen by
both, arrives within that time.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..links import Lane, Launch
from ..mem.links import ErrorReport
from ..regs import Error

__all__ = ["RunControl"]

_CLEAR_CYCLES = 4           # at least, of CLEAR and DRAIN
_LANE_CYCLES = 4            # from the first LANE that is asked for to the verdict on it
_QUIET_CYCLES = 8


class RunControl(wiring.Component):
    """
    Parameters
    ----------
    n_reports : units that may report an error
    token_lanes, max_positions, max_sequences : what a launch may ask for

    Members
    -------
    start, reset, clear_done : strobes from the registers. ``start`` counts when nothing runs and nothing drains
    n_tokens, program_count, watchdog_cycles : registers
    lanes, lane, lane_word : LANE registers are read; which one; its value, one cycle later
    pages_busy : the page table is at work; the launch waits
    reports : n_reports ErrorReports; the first in time counts, the lowest number of those that come together
    finished : END was reached and all is finished
    units_idle : no unit has work left that ``finished`` does not know of (a record on its way to the writer)
    ports_idle : readers, writer and fetch are idle
    progress : something moved: a beat, a descriptor issued, a unit done
    oldest : index for WATCHDOG
    launch : constant during a run
    close, closing : strobe: the candidates of the run are final; what follows from them is still being made
    unit_reset : hold units and dispatch in reset
    flush : flush readers, writer and fetch
    fetch_start : strobe: fetch the program
    busy, done, error, draining, error_code, error_index : STATUS and the two registers
    running : counters count; ``clear_counters`` strobes before

    LAUNCH: n_tokens not in 1 .. token_lanes; of these lanes, a position of at least max_positions or a slot of at least
    max_sequences, lanes of one slot that are apart, or that lie side by side and whose positions do not rise by one.
    FETCH at index 0: program_count not in 1 .. 65536.
    """

    def __init__(self, *, n_reports, token_lanes, max_positions, max_sequences):
        if not isinstance(n_reports, int) or n_reports < 1:
            raise ValueError(f"n_reports must be a positive integer, not {n_reports!r}")
        if not isinstance(token_lanes, int) or not 1 <= token_lanes <= 16:
            raise ValueError(f"token_lanes must be an integer of 1 to 16, not {token_lanes!r}")
        if not isinstance(max_positions, int) or not 1 <= max_positions <= 1 << 16:
            raise ValueError(f"max_positions must be an integer of 1 to 65536, not {max_positions!r}")
        if not isinstance(max_sequences, int) or not 1 <= max_sequences <= 16:
            raise ValueError(f"max_sequences must be an integer of 1 to 16, not {max_sequences!r}")
        self._n_reports, self._token_lanes = n_reports, token_lanes
        self._max_positions, self._max_sequences = max_positions, max_sequences
        super().__init__({
            "start": In(1), "reset": In(1), "clear_done": In(1),
            "n_tokens": In(32), "program_count": In(32), "watchdog_cycles": In(32),
            "lanes": Out(1), "lane": Out(4), "lane_word": In(32), "pages_busy": In(1),
            "reports": In(ErrorReport).array(n_reports),
            "finished": In(1), "units_idle": In(1), "ports_idle": In(1), "progress": In(1), "oldest": In(16),
            "launch": Out(Launch), "close": Out(1), "closing": In(1), "unit_reset": Out(1), "flush": Out(1), "fetch_start": Out(1),
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

        reading, count_bad, program_bad = Signal(), Signal(), Signal()
        lanes_bad = self._segments(m, reading)
        m.d.sync += [
            count_bad.eq((self.n_tokens == 0) | (self.n_tokens > self._token_lanes)),
            program_bad.eq((self.program_count == 0) | (self.program_count > 1 << 16)),
        ]

        still_cycles = Signal(32)               # without progress
        expired = Signal()
        m.d.sync += expired.eq((still_cycles >= self.watchdog_cycles) & (self.watchdog_cycles != 0))

        read_cycles = self._token_lanes + _LANE_CYCLES
        wait = Signal(range(max(_CLEAR_CYCLES, _QUIET_CYCLES, read_cycles)))
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
                m.d.comb += [self.busy.eq(1), clean.eq(1), self.clear_counters.eq(1), reading.eq(1)]
                m.d.sync += [self.launch.n_tokens.eq(self.n_tokens), wait.eq(wait + 1)]
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif((wait == read_cycles - 1) & self.pages_busy):
                    m.d.sync += wait.eq(wait)
                with m.Elif(wait == read_cycles - 1):
                    m.d.sync += wait.eq(0)
                    with m.If(count_bad | lanes_bad):
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
                        m.d.comb += self.close.eq(1)
                        m.d.sync += wait.eq(0)
                        m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += self.busy.eq(1)
                with m.If(self.reset):
                    m.next = "DRAIN"
                with m.Elif(~self.closing):
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

    def _segments(self, m, reading):
        """Reads LANE of all token lanes while ``reading`` is set, finds the segments, and returns whether they are bad.

        ::

            lane_word --> entry --> lane M - 1 --> ... --> lane 0       ``last`` of a lane is known when the next one comes
        """
        n_lanes = self._token_lanes
        step = Signal(range(n_lanes + 3))               # lane `step` is asked for, `step` - 1 comes, `step` - 2 is `entry`
        entry, valid, present, bad = Signal(Lane), Signal(), Signal(), Signal()
        seen = Signal(16)                               # slots
        lanes = [self.launch.lanes[t] for t in range(n_lanes)]
        before, follows = lanes[-1], Signal()
        next_position = Signal(17)
        m.d.comb += [
            self.lanes.eq(reading), self.lane.eq(step), valid.eq((step >= 2) & (step != n_lanes + 2)),
            follows.eq((step != 2) & present & (before.slot == entry.slot)), next_position.eq(before.position + 1),
        ]
        m.d.sync += [entry.position.eq(self.lane_word), entry.slot.eq(self.lane_word[16:]),
                     present.eq(step <= self.launch.n_tokens)]
        with m.If(~reading):
            m.d.sync += [step.eq(0), seen.eq(0), bad.eq(0)]
        with m.Elif(step != n_lanes + 2):
            m.d.sync += step.eq(step + 1)
        with m.If(valid):
            m.d.sync += [lane.eq(after) for lane, after in zip(lanes, lanes[1:])]
            if n_lanes > 1:
                m.d.sync += lanes[-2].last.eq(~follows)
            m.d.sync += [before.eq(entry), before.first.eq(~follows), before.last.eq(1)]
            with m.If(present):
                m.d.sync += seen.bit_select(entry.slot, 1).eq(1)
                with m.If((entry.position >= self._max_positions) | (entry.slot >= self._max_sequences)
                          | Mux(follows, entry.position != next_position, seen.bit_select(entry.slot, 1))):
                    m.d.sync += bad.eq(1)
        return bad
