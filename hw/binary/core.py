"""The units of the binary machine and what joins them: everything between the port shells and the descriptor fetch.

::

    i_fetched --> dispatch --jobs--> o_jobs (one a port)
                    | commands
       +------------+-----------+----------------+
       v            v           v                v
    i_loader --> loader      engine <-- join <-- i_matmul       norm
                 |  |  |      ^ |rows                          |  |  ^
                 |  |  |      | v                              |  |  |
                 |  |  |      | post --RAW--> o_write          |  |  |
                 |  |  |      | | |  ^                         |  |  |
                 |  |  +-ACT--+-+-|--|-------------------------+  |  |
                 |  |             +--|-- X (residual) ------------+  |
                 |  +----------------|-- X                           |
                 +-------------------+-- P (params) -----------------+

A MATMUL goes to the engine and to post; it is done when post is, and the engine may be a command ahead. Words for ACT come from
post first, then from norm, then from the loader.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import Launch, ReadJob
from ..mem.join import Join
from ..mem.links import ErrorReport, Fetched, WriteWord
from ..stream import connect
from .dispatch import Dispatch
from .engine import BinaryEngine
from .links import UNITS, ActWrite, EngineCommand, MatmulCommand
from .loader import BinaryLoader
from .norm import NormUnit
from .params import ParamMemory
from .post import BinaryPost
from .residual import ResidualMemory

__all__ = ["BinaryCore"]


class BinaryCore(wiring.Component):
    """All units of one binary configuration. Reset it before every program.

    Members
    -------
    i_fetched : stream of Fetched
    i_loader, i_matmul : a stream of port words a port, by destination
    o_jobs : a stream of ReadJob a port
    o_write : stream of WriteWord
    launch : constant while a program runs; lane s is sequence s, its ``position`` the valid tokens
    errors : of dispatch
    ended : END was reached; ``finished`` : and everything issued is finished; ``quiet`` : no row is on its way out
    issue, done : strobes: a descriptor was issued; one a unit (load, matmul, norm)
    oldest : index of the oldest descriptor that is not finished
    count_* : strobes for the counters
    """

    def __init__(self, config):
        self._config = config
        words = In(stream.Signature(8 * config.port_bytes)).array(config.n_ports)
        super().__init__({
            "i_fetched": In(stream.Signature(Fetched)), "i_loader": words, "i_matmul": words,
            "o_jobs": Out(stream.Signature(ReadJob)).array(config.n_ports),
            "o_write": Out(stream.Signature(WriteWord(config.port_bytes))),
            "launch": In(Launch),
            "errors": Out(ErrorReport).array(1), "ended": Out(1), "finished": Out(1), "quiet": Out(1),
            "issue": Out(1), "done": Out(len(UNITS)), "oldest": Out(16),
            **{f"count_{name}": Out(1) for name in ("matmul_busy", "matmul_wait_weights", "matmul_wait_drain", "vector_busy")},
        })

    def elaborate(self, platform):
        m = Module()
        c = self._config
        lanes = {"token_lanes": c.token_lanes}
        m.submodules.dispatch = dispatch = Dispatch(
            n_ports=c.n_ports, **lanes, engine_rows=c.engine_rows, columns=c.columns, beat_bytes=c.beat_bytes,
            act_lines=c.act_lines, v_words=c.v_words, x_words=c.x_words, p_words=c.p_words, max_tokens=c.max_tokens,
            softmax=c.softmax)
        m.submodules.loader = loader = BinaryLoader(n_ports=c.n_ports, port_bytes=c.port_bytes, **lanes, columns=c.columns)
        m.submodules.join = join = Join(n_ports=c.n_ports, port_bytes=c.port_bytes)
        m.submodules.engine = engine = BinaryEngine(
            **lanes, engine_rows=c.engine_rows, columns=c.columns, act_lines=c.act_lines, v_words=c.v_words)
        m.submodules.post = post = BinaryPost(
            **lanes, engine_rows=c.engine_rows, columns=c.columns, port_bytes=c.port_bytes, max_sequences=c.max_sequences,
            softmax=c.softmax)
        m.submodules.norm = norm = NormUnit(**lanes, columns=c.columns)
        m.submodules.params = params = ParamMemory(p_words=c.p_words, beat_words=c.beat_bytes // 8)
        m.submodules.residual = residual = ResidualMemory(**lanes, x_words=c.x_words)

        # Words between rooms.
        for source, sink in ((join.o, engine.i_weights), (engine.o, post.i), (post.o_v, engine.i_v), (loader.o_p, params.i),
                             (loader.o_x, residual.i)):
            connect(m, source, sink)
        act = Signal(ActWrite(c.token_lanes), reset_less=True)
        act_valid = Signal()
        m.d.comb += [
            post.o_act.ready.eq(1), norm.o_act.ready.eq(~post.o_act.valid),
            loader.o_act.ready.eq(~post.o_act.valid & ~norm.o_act.valid),
            engine.i_act.valid.eq(act_valid), engine.i_act.p.eq(act),
        ]
        m.d.sync += [act_valid.eq(post.o_act.valid | norm.o_act.valid | loader.o_act.valid),
                     act.eq(Mux(post.o_act.valid, post.o_act.p, Mux(norm.o_act.valid, norm.o_act.p, loader.o_act.p)))]

        # Parameters and the residual stream.
        m.d.comb += [params.post_addr.eq(post.p_addr), post.p_data.eq(params.post_data),
                     params.norm_addr.eq(norm.p_addr), norm.p_data.eq(params.norm_data)]
        for name, unit in (("post", post), ("norm", norm)):
            m.d.comb += [unit.x_grant.eq(getattr(residual, f"{name}_grant")),
                         unit.x_read_data.eq(getattr(residual, f"{name}_read_data"))]
            m.d.comb += [getattr(residual, f"{name}_{member}").eq(getattr(unit, f"x_{member}")) for member in (
                "want", "read_en", "read_addr", "write_en", "write_addr", "write_data")]

        # Commands, jobs, port words.
        connect(m, wiring.flipped(self.i_fetched), dispatch.i)
        connect(m, dispatch.o_load, loader.i_command)
        connect(m, dispatch.o_norm, norm.i_command)
        self._matmuls(m, dispatch.o_matmul, engine, post)
        for p in range(c.n_ports):
            connect(m, dispatch.o_jobs[p], wiring.flipped(self.o_jobs[p]))
            connect(m, wiring.flipped(self.i_loader[p]), loader.i_ports[p])
            connect(m, wiring.flipped(self.i_matmul[p]), join.i[p])
        connect(m, post.o_raw, wiring.flipped(self.o_write))
        m.d.comb += self.quiet.eq(~post.o_raw.valid)

        done, norming = Signal(len(UNITS)), Signal()
        m.d.sync += [done.eq(Cat(loader.done, post.done, norm.done)),
                     norming.eq((norming | (norm.i_command.valid & norm.i_command.ready)) & ~norm.done)]
        for s in range(c.max_sequences):
            m.d.sync += post.lengths.tokens[s].eq(Mux(s < self.launch.n_tokens, self.launch.lanes[s].position, 0))
        m.d.comb += [
            dispatch.done.eq(done), self.done.eq(done), self.errors[0].eq(dispatch.error), self.ended.eq(dispatch.ended),
            self.finished.eq(dispatch.finished), self.issue.eq(dispatch.issue), self.oldest.eq(dispatch.oldest),
            self.count_matmul_busy.eq(engine.count_busy), self.count_matmul_wait_weights.eq(engine.count_wait_weights),
            self.count_matmul_wait_drain.eq(engine.count_wait_rows), self.count_vector_busy.eq(norming),
        ]
        return m

    def _matmuls(self, m, commands, engine, post):
        """Commands to engine and post, as early as each takes them."""
        sinks = (engine.i_command, post.i_command)
        taken, took = Signal(len(sinks)), Signal(len(sinks))        # before, now
        m.d.comb += [
            *(getattr(engine.i_command.p, name).eq(commands.p[name]) for name, _ in EngineCommand.as_shape()),
            *(getattr(post.i_command.p, name).eq(commands.p[name]) for name, _ in MatmulCommand() if name != "index"),
            post.index.eq(commands.p.index),
            *(sink.valid.eq(commands.valid & ~before) for sink, before in zip(sinks, taken)),
            took.eq(Cat(sink.valid & sink.ready for sink in sinks)), commands.ready.eq((taken | took).all()),
        ]
        m.d.sync += taken.eq(Mux(commands.ready, 0, taken | took))
