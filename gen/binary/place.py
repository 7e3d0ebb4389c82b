"""Where everything lies: tokens and sequences of a run, regions of ACT, words of P, rows of X, words of V.

    run      n_chunks chunks of M tokens; sequences of ``seq_tokens`` (a power of two) side by side
    group    chunks whose tokens see one another: whole sequences, whole words of V
    ACT      | keys | queries | maps x 2 | gathered, middle, ffn: of one chunk | entries: as many chunks as there is room for |
    P        parameters of a stage, twice where that fits: a stage is a layer with the norm in front of it; the patches before, the
             head behind them are stages of their own
    X        hidden rows a chunk         V        hidden / R rows of v_blocks words

What the matrices hand on (gathered heads, normalised rows, the feed-forward's middle) lives from one matrix to the next of the same
chunk, so one region of each will do: the engine takes its commands in order. Patches of images lie over these regions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from celosia.hw.binary.config import BinaryConfig
from celosia.hw.binary.isa import ROW_BITS

from .integers import HEAD_PLANES, IntegerModel
from .model import ImageInput

__all__ = ["HEAD_BITS", "DoesNotFit", "Layout", "Region", "largest_layout"]

HEAD_BITS = 8       # of the activations that the head takes
_MAX_V_BLOCKS = 15
_MAX_NORM_ROWS = 4096
_MAX_HEADS = 255
_MAX_INDEX = 255
_MAX_BLOCKS = 255
_MAX_GROUPS = 4095


class DoesNotFit(ValueError):
    """A model that a configuration cannot run; the message is one sentence."""


@dataclass(frozen=True)
class Region:
    """Lines of ACT: ``slots`` times ``lines`` from ``base`` on."""
    base: int
    lines: int
    slots: int = 1

    @property
    def end(self):
        return self.base + self.lines * self.slots

    def line(self, i):
        """First line of slot i mod slots."""
        return self.base + i % self.slots * self.lines


@dataclass(frozen=True)
class Layout:
    """Places of ``model`` on ``accel`` for runs of ``n_chunks`` chunks. :class:`DoesNotFit` where there is no room."""
    model: IntegerModel
    accel: BinaryConfig
    n_chunks: int

    def __post_init__(self):
        c, a = self.config, self.accel

        def need(ok, what, most, found):
            if not ok:
                raise DoesNotFit(f"{what} must be {most} on configuration {a.name}, not {found}")

        for what, rows in (("The size of a head", c.head_dim), ("intermediate_size", c.ffn_size)):
            need(not rows % a.engine_rows, what, f"a multiple of {a.engine_rows}", rows)
        need(c.head_dim <= a.columns, "The size of a head", f"at most {a.columns}", c.head_dim)
        need(c.n_heads <= _MAX_HEADS, "Heads", f"at most {_MAX_HEADS}", c.n_heads)
        need(a.softmax or c.attention != "softmax", "Attention", "sps", c.attention)
        need(c.hidden_size <= _MAX_NORM_ROWS, "hidden_size", f"at most {_MAX_NORM_ROWS}", c.hidden_size)
        for what, size in (("hidden_size", c.hidden_size), ("intermediate_size", c.ffn_size)):
            need(self.blocks(size) <= _MAX_BLOCKS and size // a.engine_rows <= _MAX_GROUPS, what,
                 f"at most {min(_MAX_BLOCKS * a.columns, _MAX_GROUPS * a.engine_rows)}", size)
        for what, columns, acts, planes in self._sums():
            most = 1 << ROW_BITS - planes - acts        # so that no sum is longer than ROW_BITS
            need(self.blocks(columns) * a.columns <= most, f"Columns of {what}", f"at most {most}", columns)
        need(c.head_dim <= _MAX_INDEX or c.attention != "softmax", "The size of a head", f"at most {_MAX_INDEX}", c.head_dim)
        need(self.n_tokens <= a.max_tokens, "Tokens of a run", f"at most {a.max_tokens}", self.n_tokens)
        need(self.n_sequences <= a.max_sequences, "Sequences of a run", f"at most {a.max_sequences}", self.n_sequences)
        end = max(sum(self.map_rows(chunk)) for chunk in range(self.n_chunks))
        need(end <= a.max_tokens, "Tokens of a map", f"at most {a.max_tokens}", end)
        need(self.v_blocks <= _MAX_V_BLOCKS, "Blocks of V", f"at most {_MAX_V_BLOCKS}", self.v_blocks)
        need(self.n_chunks * c.hidden_size <= a.x_words, "Rows of X", f"at most {a.x_words}", self.n_chunks * c.hidden_size)
        words = c.hidden_size // a.engine_rows * self.v_blocks
        need(words <= a.v_words, "Words of V", f"at most {a.v_words}", words)
        least = max(region.base + region.lines for region in self.act.values())
        need(least <= a.act_lines, "Lines of ACT", f"at most {a.act_lines}", least)
        need(self.p_slots > 0, "Words of P of a layer", f"at most {a.p_words}", self.stage_words)

    def _sums(self):
        c = self.config
        yield "the head", c.hidden_size, HEAD_BITS, HEAD_PLANES
        yield "a layer", max(c.hidden_size, c.ffn_size), c.act_bits, 1
        if isinstance(c.input, ImageInput):
            yield "a patch", c.input.n_columns, c.input.bits, HEAD_PLANES

    @property
    def config(self):
        """The :class:`BinaryModelConfig`."""
        return self.model.config

    # Tokens

    @cached_property
    def seq_tokens(self):
        """Tokens of a sequence, padded."""
        return _seq_tokens(self.config, self.accel)

    @property
    def n_tokens(self):
        return self.n_chunks * self.accel.token_lanes

    @property
    def n_sequences(self):
        return self.n_tokens // self.seq_tokens

    @property
    def _group_tokens(self):
        return max(self.seq_tokens, self.accel.columns, self.accel.token_lanes, self.accel.engine_rows)

    @property
    def group_chunks(self):
        """Chunks of a group."""
        return self._group_tokens // self.accel.token_lanes

    def map_rows(self, chunk):
        """(first token, rows) of the maps of a chunk: all keys that its lanes may see, from a whole word of V on."""
        lanes, s = self.accel.token_lanes, self.seq_tokens
        quantum = max(8, self.accel.engine_rows)
        whole = max(self.accel.columns, lanes)
        begin = chunk * lanes // s * s if s > lanes else chunk * lanes
        first = begin // whole * whole
        return first, -(-(max(begin + s, chunk * lanes + lanes) - first) // quantum) * quantum

    # ACT

    def blocks(self, n_columns):
        """Column blocks."""
        return -(-n_columns // self.accel.columns)

    @cached_property
    def act(self):
        """{name: :class:`Region`} of ACT."""
        c = self.config
        rows = max(self.map_rows(chunk)[1] for chunk in range(self.n_chunks))
        hidden, ffn = (self.blocks(size) * c.act_bits for size in (c.hidden_size, c.ffn_size))
        regions, base = {}, 0
        chunks = min(self.group_chunks, self.n_chunks)
        for name, lines, slots in (("keys", c.n_heads, chunks), ("queries", c.n_heads, chunks), ("maps", self.blocks(rows), 2),
                                   ("gathered", hidden, 1), ("middle", hidden, 1), ("ffn", ffn, 1)):
            regions[name] = Region(base, lines, slots)
            base = regions[name].end
        if isinstance(c.input, ImageInput):
            lines, over = self.blocks(c.input.n_columns) * c.input.bits, regions["gathered"].base
            regions["patches"] = Region(over, lines, max(1, min((base - over) // lines, self.n_chunks)))
            base = max(base, regions["patches"].end)
        room = max(self.accel.act_lines - base, 0)
        for name, lines in (("entries", hidden), ("head_entries", self.blocks(c.hidden_size) * HEAD_BITS)):
            regions[name] = Region(base, lines, min(room // lines, self.n_chunks))
        return regions

    def key_line(self, chunk, head):
        """Line of the keys of a chunk; keys and queries of the next chunk of the group lie ``n_heads`` lines on."""
        return self.act["keys"].line(chunk % self.group_chunks) + head

    def query_line(self, chunk, head):
        return self.act["queries"].line(chunk % self.group_chunks) + head

    # V, P

    @property
    def v_blocks(self):
        """Words of V of a row of banks."""
        return -(-self.n_tokens // self.accel.columns)

    @cached_property
    def stages(self):
        """{stage: {name: (first word, words)}} of P, from -1 (patches) to n_layers (head), relative to the stage's base."""
        stages = {-1: {} if self.model.patch is None else {"patch": self.model.patch.after.words()}}
        for i, layer in enumerate(self.model.layers):
            stages[i] = {"entry": _norm_words(self.model.entries[i])} | {name: getattr(layer, name).after.words()
                                                                         for name in ("q", "k", "v")}
            stages[i] |= {"map": layer.map.words().reshape(-1), "gather": layer.gather.words(), "o": layer.o.after.words(),
                          "middle": _norm_words(layer.middle), "up": layer.up.after.words(), "down": layer.down.after.words()}
        stages[self.config.n_layers] = {"entry": _norm_words(self.model.entries[-1])}
        return {stage: self._placed(parts) for stage, parts in stages.items()}

    def _placed(self, parts):
        placed, at = {}, 0
        for name, words in parts.items():
            placed[name] = at, words
            at += -(-len(words) // 2) * 2       # a NORM begins at an even word
        return placed

    @cached_property
    def stage_words(self):
        """Words of P that a stage takes, at most: whole beats."""
        quantum = max(self.accel.beat_bytes // 8, 2)
        most = max(at + len(words) for parts in self.stages.values() for at, words in parts.values())
        return -(-most // quantum) * quantum

    @property
    def p_slots(self):
        """Stages that P holds at once."""
        return min(self.accel.p_words // self.stage_words, 2)

    def p_base(self, stage, name):
        """First word of P of the parameters of a name."""
        return (stage + 1) % self.p_slots * self.stage_words + self.stages[stage][name][0]


def largest_layout(model, accel, n_sequences=None):
    """The :class:`Layout` with room for the most sequences, or for ``n_sequences``. :class:`DoesNotFit` where none fits."""
    seq_tokens, lanes = _seq_tokens(model.config, accel), accel.token_lanes
    step = max(1, seq_tokens // lanes)
    wanted = accel.max_sequences if n_sequences is None else n_sequences
    most = min(accel.max_tokens, max(wanted * seq_tokens, lanes)) // lanes
    for n_chunks in range(most // step * step, step, -step):
        try:
            return Layout(model, accel, n_chunks)
        except DoesNotFit:
            continue
    return Layout(model, accel, step)


def _seq_tokens(config, accel):
    """No more sequences lie in a chunk than a run may have."""
    least = -(-accel.token_lanes // accel.max_sequences)
    return 1 << (max(config.max_tokens, least) - 1).bit_length()


def _norm_words(norm):
    """A row's two words side by side."""
    return np.stack([norm.gain.words(), norm.out.words()], 1).reshape(-1)
