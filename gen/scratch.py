"""Scratch memory and dependences of a program: who holds which words, who must wait for whom."""

from celosia.hw.isa import Add, Mul1, Mul2, Opcode, Sink, Source, Tokens

__all__ = ["UNITS", "Scratch", "Tracker", "accesses", "reads_p"]

_QUEUES = ("KV",)
UNITS = (Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND)      # in the order of the wait fields


class Scratch:
    """Words of a scratch memory, given to named buffers and taken back.

    A buffer takes the first gap, or with ``rotate`` the first behind the buffer given out last, so that freed words rest
    before they are used again. One that does not fit below ``limit`` is placed above it: ``peak`` says how many words the
    program needs, and ``held`` who held them then.
    """

    def __init__(self, limit, *, rotate=False):
        self._limit, self._rotate = limit, rotate
        self._held = {}         # name: (base, words)
        self._next = 0
        self.peak = 0
        self.held = {}

    def base(self, name):
        return self._held[name][0]

    def _gaps(self):
        start = 0
        for base, words in sorted(self._held.values()):
            yield start, min(base, self._limit)
            start = base + words
        yield start, self._limit

    def _find(self, words):
        least = self._next if self._rotate else 0
        starts = [max(start, least) for start, end in self._gaps() if max(start, least) + words <= end]
        starts += [start for start, end in self._gaps() if start + words <= end]
        return starts[0] if starts else None

    def fits(self, words):
        return self._find(words) is not None

    def take(self, name, words):
        """Base of ``words`` words for ``name``."""
        base = self._find(words)
        if base is None:
            base = max((b + w for b, w in self._held.values()), default=0)
        self._held[name] = (base, words)
        self._next = base + words
        if base + words > self.peak:
            self.peak = base + words
            self.held = {key: size for key, (_, size) in self._held.items()}
        return base

    def free(self, name):
        del self._held[name]


def reads_p(fields):
    """Whether a VECTOR descriptor reads the parameter scratch."""
    return (fields["source"] is Source.P or fields["mul1"] is Mul1.P or fields["mul2"] in (Mul2.P, Mul2.ROPE)
            or fields["add"] is Add.ROPE)


def accesses(opcode, fields, lanes):
    """What a descriptor reads and writes: two lists of (resource, first word, end word), for ``lanes`` token lanes."""
    def words(base, stride):
        return base, base + (lanes - 1) * stride + fields["n_words"]

    reads, writes = [], []
    if opcode is Opcode.LOAD:
        writes.append(("P", *words(fields["d_base"], fields["d_stride"])))
    elif opcode is Opcode.MATMUL:
        reads.append((f"ACT{fields['bank']}", 0, 1))
    elif opcode is Opcode.ATTEND:
        banks = (0, 1) if fields["rebased"] else (fields["bank"],)
        reads += [*((f"Q{bank}", 0, 1) for bank in banks), ("KV", 0, 1)]
    elif opcode is Opcode.VECTOR:
        if reads_p(fields):
            reads.append(("P", *words(fields["p_base"], fields["p_stride"])))
        if fields["sink"] in (Sink.ACT, Sink.Q):
            writes.append((f"{fields['sink'].name}{fields['bank']}", 0, 1))
        if fields["sink"] in (Sink.K, Sink.V):
            writes.append(("KV", 0, 1))
    return reads, writes


class Tracker:
    """Counts what every unit has been given and who touched which words last, and finds the waits of a descriptor.

    A reader waits for the writers before it (RAW), a writer for readers and writers before it (WAR, WAW). A unit runs its
    own queue in order, so it never waits for itself. Activation scratch X belongs to the vector unit alone. Keys and
    values of a chunk go through a queue, which nobody overwrites: there is only RAW.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        self._given = dict.fromkeys(UNITS, 0)
        self._touched = {}      # resource: [(first, end, wrote, unit, count)]

    def issue(self, opcode, fields):
        """Waits (load, matmul, vector, attend) of the next descriptor, which is then taken as issued."""
        lanes = self._lanes
        if opcode is Opcode.VECTOR and fields["tokens"] is not Tokens.ALL and not fields["p_stride"]:
            lanes = 1
        reads, writes = accesses(opcode, fields, lanes)
        needed = dict.fromkeys(UNITS, 0)
        for touched, hazards in ((reads, (True,)), (writes, (True, False))):
            for resource, first, end in touched:
                hazards = () if touched is writes and resource in _QUEUES else hazards
                for other_first, other_end, wrote, unit, count in self._touched.get(resource, ()):
                    if wrote in hazards and unit is not opcode and other_first < end and first < other_end:
                        needed[unit] = max(needed[unit], count)
        if opcode in self._given:
            self._given[opcode] += 1
        count = self._given.get(opcode)
        for resource, first, end in writes:
            kept = [t for t in self._touched.get(resource, ()) if not (first <= t[0] and t[1] <= end)]
            self._touched[resource] = [*kept, (first, end, True, opcode, count)]
        for resource, first, end in reads:
            kept = [t for t in self._touched.get(resource, ())
                    if t[2] or t[3] is not opcode or not (first <= t[0] and t[1] <= end)]
            self._touched[resource] = [*kept, (first, end, False, opcode, count)]
        return tuple(needed[unit] for unit in UNITS)
