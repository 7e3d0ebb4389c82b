"""The golden machine: runs the program of an image, descriptor by descriptor, on a memory of bytes.

It has what the accelerator has: a model window and a cache window, scratch X and P, activation and query banks, scalar
registers, the streams between units, the page tables of the cache. It reads weights from packed bytes, embedding rows and records
as the ports do, and takes the arithmetic of each unit from its golden function. Descriptors run one after the other, in program
order.
"""

import hashlib
import json
import struct
from collections import deque

import numpy as np
import torch

from celosia.gen.golden.attention import attend
from celosia.gen.golden.pages import PageTables
from celosia.gen.golden.records import Region, low_four, ranges_read
from celosia.gen.golden.vector import VectorState, accepted, best, run_vector
from celosia.hw import isa
from celosia.hw.formats import TRITS_PER_BYTE, unpack_trit_byte
from celosia.hw.isa import DESCRIPTOR_BYTES, LANE_INDEXES, Add, Index, Mul1, Mul2, Mul3, Opcode, Sink, Source, Tokens
from celosia.hw.regs import Error

__all__ = ["Machine", "MachineError", "lanes_of"]

_TRITS = torch.tensor([unpack_trit_byte(byte) if byte < 3**TRITS_PER_BYTE else [0] * TRITS_PER_BYTE for byte in range(256)],
                      dtype=torch.int8)


class MachineError(RuntimeError):
    """The machine stopped a program: ``code`` is a name of ``regs.Error``, ``index`` the descriptor it stopped at."""

    def __init__(self, code, index, why):
        super().__init__(f"The program stopped at descriptor {index} with {Error.NAMES[code]}: {why}")
        self.code, self.index = Error.NAMES[code], index


def lanes_of(first_position, n_tokens, slot=0):
    """Lanes [(slot, position)] of one segment."""
    return [(slot, first_position + t) for t in range(n_tokens)]


class Machine:
    """One accelerator of configuration ``config``. ``pages`` are its :class:`PageTables`, which outlive a reset of the units.

    Parameters
    ----------
    model, cache : uint8 arrays
        The two windows; ``cache`` is written. What a program reads from ``model`` must not change: it is kept unpacked.
    config : AccelConfig
    header : dict, optional
        Of the image; without it programs go by (offset, count).
    """

    def __init__(self, model, cache, config, header=None):
        self.model, self.cache, self.config = model, cache, config
        self.header = header
        self._programs, self._weights = {}, {}
        self.pages = PageTables.of(config)
        self.reset()

    @classmethod
    def of_image(cls, image, config):
        """A machine with the model of ``image`` (bytes of an image file) in a memory of its own."""
        header, model = _read_image(image)
        if header["config_digest"] != config.digest:
            raise ValueError(f"image was packed for configuration {header['config']} ({header['config_digest']}), "
                             f"this accelerator is {config.name} ({config.digest}): pack again with --config {config.name}")
        return cls(model, np.zeros(header["cache_bytes"], np.uint8), config, header)

    def reset(self):
        """State of the units as after power-on; here scratch memories hold NaN and banks 77, so that none is read unset."""
        c = self.config
        self._vector = VectorState(torch.full((c.x_words, c.vector_lanes), float("nan")),
                                   torch.full((c.p_words, c.vector_lanes), float("nan")))
        self._act = torch.full((2, c.token_lanes, c.max_columns), 77, dtype=torch.int8)
        size = c.max_head_words * c.port_bytes
        self._query = torch.full((2, c.token_lanes, c.max_queries, size), 77, dtype=torch.int8)
        self._query_scale = torch.full((2, c.token_lanes, c.max_queries), float("nan"))
        self._kv = {sink: (torch.zeros(c.token_lanes, size, dtype=torch.int8), torch.zeros(c.token_lanes))
                    for sink in (Sink.K, Sink.V)}
        self._offered, self._shortlists = {}, None

    def run(self, program, token_ids, lanes):
        """Run a program of the image, or (offset, count) in the model window, on up to ``token_lanes`` tokens.

        ``lanes`` gives (slot, position) of each. Returns the candidates [(token, logit)] of the last lane, best first (none from a
        program without a head). Raises MachineError.
        """
        for index, (opcode, _, fields) in enumerate(self.begin(program, token_ids, lanes)):
            if opcode is not Opcode.END:
                self.execute(index, opcode, fields)
        return self.candidates()

    def begin(self, program, token_ids, lanes):
        """Set up a run; returns the descriptors [(opcode, waits, fields)] up to the END that ends it."""
        self._segments = self._check_launch(token_ids, lanes)
        self._token_ids, self._lanes, self._n = list(token_ids), list(lanes), len(lanes)
        self._vector.kept.zero_()
        self._offered, self._shortlists, self._rows = {}, None, deque()
        if isinstance(program, str):
            where = self.header["programs"][program]
            program = where["offset"], where["count"]
        return self._decode(*program)

    def _check_launch(self, token_ids, lanes):
        """Segments [(slot, first position, first lane, lanes)]; MachineError LAUNCH."""
        def need(ok, rule):
            if not ok:
                raise MachineError(Error.LAUNCH, 0, rule)

        c, n = self.config, len(token_ids)
        need(len(lanes) == n, f"tokens and lanes must be as many, not {n} and {len(lanes)}")
        need(1 <= n <= c.token_lanes, f"it must have 1 to {c.token_lanes} tokens, not {n}")
        segments = []
        for t, (slot, position) in enumerate(lanes):
            need(0 <= slot < c.max_sequences, f"slots must be 0 to {c.max_sequences - 1}, not {slot}")
            need(0 <= position < c.max_positions, f"positions must be within {c.max_positions}, not {position}")
            if t and lanes[t - 1][0] == slot:
                need(lanes[t - 1][1] + 1 == position, f"position {position} of slot {slot} must follow {lanes[t - 1][1]}")
                segments[-1][3] += 1
            else:
                need(slot not in [segment[0] for segment in segments], f"lanes of slot {slot} must lie side by side")
                segments.append([slot, position, t, 1])
        return segments

    def candidates(self, lane=None):
        """What the top-k unit of the last run holds of a token lane, by default the last: [(token, logit)]."""
        tokens, values = best(*self.offered(self._n - 1 if lane is None else lane), self.config.top_k)
        return list(zip(tokens.tolist(), values.tolist()))

    def offered(self, lane, forget=False):
        """All that came to the top-k unit for a token lane, in order of arrival: tokens int64 (n,) and logits float32 (n,)."""
        parts = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0)), *self._offered.get(lane, ())]
        if forget:
            self._offered.pop(lane, None)
        return tuple(torch.cat(part) for part in zip(*parts))

    def accepted(self):
        """Register ACCEPTED after a run: bit t where the token of lane t is what its segment would have said."""
        firsts = {segment[2] for segment in self._segments}
        found = [self.candidates(lane) for lane in range(self._n)]
        return accepted([t in firsts for t in range(self._n)], self._token_ids, [each[0][0] if each else None for each in found])

    def execute(self, index, opcode, fields):
        """Run one descriptor. LOAD, MATMUL and ATTEND read memory; MATMUL and ATTEND leave words for a later VECTOR."""
        if not size_fits(self.config, opcode, fields, self._n):
            raise MachineError(Error.SIZE, index, "a size is beyond this configuration")
        {Opcode.LOAD: self._load, Opcode.MATMUL: self._matmul, Opcode.VECTOR: self._run_vector,
         Opcode.ATTEND: self._attend}[opcode](index, fields)

    def stream_words(self, source):
        """Words that wait in the stream of ``Source.MATMUL`` or ``Source.ATTEND``."""
        return len(self._vector.matmul if source is Source.MATMUL else self._vector.attend)

    # Descriptors

    def _decode(self, offset, count):
        steps = self._programs.setdefault((offset, count), [])
        for index in range(count):
            if index < len(steps):
                if self._ends(steps[index]):
                    return steps[:index + 1]
                continue
            raw = self._window(index, self.model, offset + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES).tobytes()
            try:
                steps.append(isa.unpack(raw))
            except ValueError as error:
                raise MachineError(Error.OPCODE, index, str(error)) from None
            if self._ends(steps[-1]):
                return list(steps)
        raise MachineError(Error.FETCH, max(count - 1, 0), "the program must end with END")

    def _ends(self, step):
        """Whether a descriptor is an END that ends this run."""
        opcode, _, fields = step
        return opcode is Opcode.END and (not fields["above"] or self._n <= fields["above"])

    def _window(self, index, window, start, size, code=Error.READ_WINDOW):
        if start + size > len(window):
            raise MachineError(code, index, f"bytes {start} to {start + size - 1} are outside a window of {len(window)}")
        return window[start:start + size]

    def _ports(self, index, fields, offset, size):
        """(ports, size) uint8: ``size`` bytes of each port's segment in the model window."""
        return np.stack([self._window(index, self.model, fields["addr"] + p * fields["port_stride"] + offset, size)
                         for p in range(self.config.n_ports)])

    def _gathered(self, index, f):
        """Number of the candidate of ``rank`` in a lane's shortlist; all shortlists end with the first that is asked for."""
        if self._shortlists is None:
            self._shortlists = [[token for token, _ in self.candidates(lane)] for lane in range(self._n)]
            self._offered = {}
        shortlist = self._shortlists[min(f["lane"], self._n - 1)]
        if f["rank"] >= len(shortlist):
            raise ValueError(f"Descriptor {index} asks for candidate {f['rank']} of {len(shortlist)}")
        return shortlist[f["rank"]]

    def of_group(self, opcode, fields, group):
        """Fields of a LOAD or MATMUL that reads by a candidate, as one that reads ``group``, the rows from
        ``group * row_quantum`` on."""
        if opcode is Opcode.LOAD:
            return fields | {"addr": fields["addr"] + group * fields["index_stride"], "index": Index.NONE}
        matrix_bytes = fields["planes"] * fields["n_row_groups"] * fields["n_col_blocks"] * self.config.port_bytes
        return fields | {"addr": fields["addr"] + group * matrix_bytes, "gather": 0}

    # Units

    def _load(self, index, f):
        c = self.config
        if f["index"] is Index.CANDIDATE:
            f = self.of_group(Opcode.LOAD, f, self._gathered(index, f) // c.row_quantum)
        row_bytes = f["n_words"] * c.vector_lanes * 4 // c.n_ports
        rows = {Index.NONE: [0], Index.TOKEN: self._token_ids,
                Index.POSITION: [position for _, position in self._lanes],
                Index.REBASED: [min(position, f["limit"]) for _, position in self._lanes]}[f["index"]]
        for r, row in enumerate(rows):
            ports = self._ports(index, f, row * f["index_stride"], row_bytes).reshape(c.n_ports, -1, c.port_bytes)
            words = torch.from_numpy(ports.transpose(1, 0, 2).copy().view("<f4").reshape(f["n_words"], c.vector_lanes))
            start = f["d_base"] + r * f["d_stride"]
            self._vector.p[start:start + f["n_words"]] = words

    def _matmul(self, index, f):
        c = self.config
        if f["gather"]:
            f = self.of_group(Opcode.MATMUL, f, self._gathered(index, f) // c.row_quantum)
        weights = self._unpacked(index, f)
        act = self._act[f["bank"], :self._n if f["tokens"] is Tokens.ALL else 1, :weights.shape[1]]
        acc = (act.to(weights.dtype) @ weights.T).to(torch.int64)
        if acc.abs().max() >= 1 << (c.accumulator_bits - 1):
            raise AssertionError(f"Descriptor {index}: a sum does not fit {c.accumulator_bits} bits")
        for block in acc.split(c.row_block_rows, 1):     # drain order: row block, token, word
            self._vector.push_matmul(block.reshape(-1, c.vector_lanes))

    def _unpacked(self, index, f):
        """Integer weights (rows, columns) as floats in which sums are exact."""
        c, planes, groups, blocks = self.config, f["planes"], f["n_row_groups"], f["n_col_blocks"]
        key = f["addr"], f["port_stride"], groups, blocks, planes
        if key not in self._weights:
            n_beats = planes * groups * blocks
            ports = self._ports(index, f, 0, n_beats * c.port_bytes).reshape(c.n_ports, n_beats, c.port_bytes)
            beats = torch.from_numpy(ports.transpose(1, 0, 2).reshape(n_beats, -1).copy())
            parts, start = [], 0
            for first in range(0, groups, c.max_row_groups):
                size = min(c.max_row_groups, groups - first)
                block = beats[start:start + planes * blocks * size]
                start += len(block)
                trits = _TRITS[block.long()].view(planes, blocks, size, c.engine_rows, c.columns)
                parts.append(trits.permute(0, 2, 3, 1, 4).reshape(planes, size * c.engine_rows, blocks * c.columns))
            trits = torch.cat(parts, 1)
            weights = torch.zeros(trits.shape[1:], dtype=torch.int32)
            for plane in trits:
                weights = 3 * weights + plane
            largest = weights.shape[1] * 128 * (3**planes - 1) // 2
            self._weights[key] = weights.to(torch.float32 if largest < 1 << 24 else torch.float64)
        return self._weights[key]

    def _run_vector(self, index, f):
        try:
            words = run_vector(f, self._n, self._vector)
        except ValueError as error:
            raise MachineError(Error.SIZE, index, str(error)) from None
        sink, lanes = f["sink"], self.config.vector_lanes
        if sink is Sink.TOPK:
            self._shortlists = None
            self._offer(words.offer())
        elif sink is Sink.RESCORE:
            if self._shortlists is None:
                raise ValueError(f"Descriptor {index} rescores a shortlist, and nothing asked for its candidates")
            self._offer(words.offer(self._shortlists, self.config.row_quantum))
        elif sink not in (Sink.NONE, Sink.X):
            bank = {Sink.ACT: lambda: self._act[f["bank"]], Sink.Q: lambda: self._query[f["bank"], :, f["head"]],
                    Sink.K: lambda: self._kv[sink][0], Sink.V: lambda: self._kv[sink][0]}[sink]()
            bank.view(len(bank), -1, lanes)[words.token, words.word] = words.data
            if sink is Sink.Q:
                self._query_scale[f["bank"], words.token, f["head"]] = words.scale
            elif sink is not Sink.ACT:
                self._kv[sink][1][words.token] = words.scale
            if sink is Sink.V:
                for bit, (codes, _) in enumerate(self._kv.values()):
                    if f["int4"] >> bit & 1:
                        codes.copy_(low_four(codes))
                self._rows.append([tensor[:self._n].clone() for pair in self._kv.values() for tensor in pair])
                self._write_records(index, f)

    def _offer(self, found):
        for lane, offered in found.items():
            self._offered.setdefault(lane, []).append(offered)

    def _where(self, index, region, slot, positions, writes):
        """Byte offsets (positions, record bytes) in the cache window of positions of a slot, to be read or written.

        What the page tables do not allow is an error: OWNER of writes, PAGE of reads.
        """
        pages, size = {}, self.config.page_positions
        for entry in dict.fromkeys((positions // size).tolist()):
            pages[entry] = (self.pages.to_write if writes else self.pages.to_read)(slot, entry)
            if pages[entry] is None:
                kind = "of its own" if writes else "of its own or a shared one"
                raise MachineError(Error.OWNER if writes else Error.PAGE, index,
                                   f"slot {slot} must have a page {kind} for positions {entry * size} to {(entry + 1) * size - 1}")
        start = region.offsets(positions, pages)
        if len(start) and start.max() + region.record_bytes > len(self.cache):
            self._window(index, self.cache, int(start.max()), region.record_bytes,
                         Error.WRITE_WINDOW if writes else Error.READ_WINDOW)
        return start[:, None] + np.arange(region.record_bytes)

    def _write_records(self, index, f):
        head_size = f["n_words"] * self.config.vector_lanes
        region = Region(self.config, f, head_size)
        for slot, position, lane, n in self._segments:
            where = self._where(index, region, slot, position + np.arange(n), True)
            self.cache[where] = region.pack(*(part[lane:lane + n] for part in _of_size(self._rows[-1], head_size)))

    def _attend(self, index, f):
        c, head_size = self.config, f["head_words"] * self.config.port_bytes
        region = Region(c, f, head_size)
        pasts = [self._past(index, f, region, slot, first) for slot, first, _, _ in self._segments]
        if not self._rows:
            raise ValueError(f"Descriptor {index}: ATTEND takes the keys and values of a chunk, and none came")
        rows = _of_size(self._rows.popleft(), head_size)
        for past, (_, first, lane, n) in zip(pasts, self._segments):
            own = slice(lane, lane + n)
            usual, other = ((self._query[bank, own, :f["group"], :head_size], self._query_scale[bank, own, :f["group"]])
                            for bank in (f["bank"], f["bank"] ^ 1))
            acc, scale = attend(
                *usual, *(torch.cat((old, new[own])) for old, new in zip(past, rows)), first, c.n_ports, window=f["window"],
                sinks=f["sinks"], bidirectional=bool(f["bidirectional"]), rebased=other if f["rebased"] else None, cap=f["cap"])
            self._vector.push_attend(acc.reshape(-1, c.vector_lanes),
                                     scale.reshape(-1).repeat_interleave(head_size // c.vector_lanes))

    def _past(self, index, f, region, slot, first):
        """(keys, their scales, values, theirs) of the positions before ``first``; zeros where ATTEND does not read."""
        past = region.unpack(np.zeros((first, region.record_bytes), np.uint8))
        for start, end in ranges_read(first, f["window"], f["sinks"], self.config.n_ports):
            where = self._where(index, region, slot, np.arange(start, end), False)
            for whole, part in zip(past, region.unpack(self.cache[where])):
                whole[start:end] = part
        return past


def _of_size(rows, head_size):
    """(key, scales, value, scales) of a run, heads cut to ``head_size`` elements."""
    return [part[:, :head_size] if part.ndim == 2 else part for part in rows]


def size_fits(config, opcode, f, n_tokens):
    """Whether the sizes of a descriptor are within the configuration; the rules of ``docs/program.md``."""
    def end(base, stride, rows=n_tokens):
        return f[base] + (rows - 1) * f[stride] + f["n_words"]

    max_group = config.max_queries // config.token_lanes
    if "tokens" in f and f["tokens"] is Tokens.LANE and f["lane"] >= n_tokens:
        return False
    if opcode is Opcode.LOAD:
        rows = n_tokens if f["index"] in LANE_INDEXES else 1
        return (f["n_words"] and end("d_base", "d_stride", rows) <= config.p_words
                and (f["index"] is not Index.CANDIDATE or f["rank"] < config.top_k))
    if opcode is Opcode.MATMUL:
        return (f["n_row_groups"] and f["n_row_groups"] * config.engine_rows % config.vector_lanes == 0
                and 1 <= f["planes"] <= 5 and 1 <= f["n_col_blocks"]
                and f["n_col_blocks"] * config.columns <= min(config.max_columns, config.max_planes_columns(f["planes"]))
                and (not f["gather"] or f["rank"] < config.top_k
                     and f["n_row_groups"] * config.engine_rows == config.row_quantum))
    if opcode is Opcode.ATTEND:
        return 1 <= f["group"] <= max_group and 1 <= f["head_words"] <= config.max_head_words
    beats, part = divmod(f["n_words"] * config.vector_lanes, config.port_bytes)
    return (f["n_words"] and f["block_words"]
            and (not reads_x(f) or end("x_base", "x_stride") <= config.x_words)
            and (not reads_p(f) or end("p_base", "p_stride") <= config.p_words)
            and (f["sink"] is not Sink.X or end("d_base", "d_stride") <= config.x_words)
            and (f["sink"] is not Sink.ACT or (f["d_base"] + f["n_words"]) * config.vector_lanes <= config.max_columns)
            and (f["sink"] is not Sink.RESCORE
                 or (f["d_base"] + f["n_words"]) * config.vector_lanes <= config.top_k * config.row_quantum)
            and (f["sink"] not in (Sink.Q, Sink.K, Sink.V) or not part and beats <= config.max_head_words)
            and (f["sink"] is not Sink.Q or f["head"] < max_group))


def reads_x(f):
    """Whether a VECTOR descriptor reads X."""
    return f["source"] is Source.X or f["mul3"] is Mul3.X or f["add"] is Add.X


def reads_p(f):
    """Whether a VECTOR descriptor reads P."""
    return f["source"] is Source.P or f["mul1"] is Mul1.P or f["mul2"] in (Mul2.P, Mul2.ROPE) or f["add"] is Add.ROPE


def _read_image(data):
    """(header, model window uint8) of an image file; docs/image.md. ValueError when it is not a whole image."""
    magic, version, size = struct.unpack_from("<8sII", data.ljust(16, b"\0"))
    if magic != b"CELOSIA\0" or version != 1 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError("The image must be a whole Celosia image of format version 1: pack the model again")
    start = -(-(16 + size) // 4096) * 4096
    header = json.loads(data[16:16 + size])
    return header, np.frombuffer(data, np.uint8)[start:start + header["payload_bytes"]].copy()
