"""Query vectors and their factors, two banks: written element word by element word, read A vectors and a factor a cycle.

::

    write --> lane 0: [bank, index, word] of B int8    --> data[0]      one cycle after read
          --> lane 1: ...                              --> data[1]
          --> factors [bank, index, lane]              --> factor       one cycle after factor_lane, factor_index

A slice has its own copy, because slices do not keep step. Rate: one write, A words and one factor a cycle.
"""

from amaranth.hdl import Cat, Module, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .links import AttentionSizes, QueryWrite

__all__ = ["QueryMemory"]


class QueryMemory(wiring.Component):
    """Memory of queries of one slice.

    Members
    -------
    write_en, write : In
    word : In
        Word of the head, for all lanes.
    index, bank : In, and data : Out one cycle later, a lane
    factor_lane, factor_index, factor_bank : In, and factor : Out one cycle later
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        lanes, index = sizes.query_lanes, unsigned(sizes.slots.index_bits)
        super().__init__({
            "write_en": In(1), "write": In(QueryWrite(sizes)),
            "word": In(sizes.head_words_log2), "index": In(index).array(lanes), "bank": In(1).array(lanes),
            "data": Out(sizes.beat).array(lanes),
            "factor_lane": In(range(lanes)), "factor_index": In(index), "factor_bank": In(1), "factor": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        sizes, write = self._sizes, self.write
        depth = 2 * sizes.max_passes << sizes.head_words_log2
        attrs = {"ram_style": "block"} if depth >= 512 else {}
        for lane in range(sizes.query_lanes):
            here = self.write_en & (write.lane == lane)

            vectors = memory.Memory(shape=sizes.beat, depth=depth, init=[], attrs=attrs)
            m.submodules[f"vectors_{lane}"] = vectors
            port = vectors.write_port(granularity=8 * sizes.vector_lanes)
            read = vectors.read_port(domain="sync")
            m.d.comb += [
                port.en.eq(write.part.as_value() & here.replicate(sizes.beat_words)),
                port.addr.eq(Cat(write.word, write.index, write.bank)),
                port.data.eq(write.data),
                read.en.eq(1),
                read.addr.eq(Cat(self.word, self.index[lane], self.bank[lane])),
                self.data[lane].eq(read.data),
            ]

        lane_log2, depth = ceil_log2(sizes.query_lanes), 2 * sizes.query_lanes * sizes.max_passes
        m.submodules.factors = factors = memory.Memory(shape=32, depth=depth, init=[],
                                                       attrs={"ram_style": "block"} if depth >= 128 else {})
        port, read = factors.write_port(), factors.read_port(domain="sync")
        m.d.comb += [
            port.en.eq(self.write_en & write.with_factor),
            port.addr.eq(Cat(write.lane[:lane_log2], write.index, write.bank)),
            port.data.eq(write.factor),
            read.en.eq(1),
            read.addr.eq(Cat(self.factor_lane[:lane_log2], self.factor_index, self.factor_bank)),
            self.factor.eq(read.data),
        ]
        return m
