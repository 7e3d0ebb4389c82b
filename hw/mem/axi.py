"""AXI4 and AXI4-Lite as streams: one stream a channel, one payload class a stream.

Signatures are seen from the master: ``Out(AxiRead(...))`` in a component that reads memory, ``In(AxiLite(...))`` in
one that is read and written. Every burst is INCR, as wide as the port, and never crosses a 4 KiB border, so size, burst
type, lock, cache and protection are constants and belong to the wrapper that gives the ports their AXI names.
"""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Address", "ReadData", "WriteData", "WriteResponse", "LiteWrite", "LiteRead",
           "AxiRead", "AxiWrite", "AxiLite"]


class Address(data.StructLayout):
    """AR or AW: byte address, beats - 1."""
    def __init__(self, addr_bits, id_bits):
        super().__init__({"addr": addr_bits, "len": 8, "id": id_bits})


class ReadData(data.StructLayout):
    """R. Bit 1 of ``resp`` says error."""
    def __init__(self, port_bytes, id_bits):
        super().__init__({"data": 8 * port_bytes, "resp": 2, "last": 1, "id": id_bits})


class WriteData(data.StructLayout):
    """W."""
    def __init__(self, port_bytes):
        super().__init__({"data": 8 * port_bytes, "strb": port_bytes, "last": 1})


class WriteResponse(data.StructLayout):
    """B. Bit 1 of ``resp`` says error."""
    def __init__(self, id_bits):
        super().__init__({"resp": 2, "id": id_bits})


class LiteWrite(data.Struct):
    """W of AXI4-Lite."""
    data: 32
    strb: 4


class LiteRead(data.Struct):
    """R of AXI4-Lite."""
    data: 32
    resp: 2


class _Signature(wiring.Signature):
    def __init__(self, sizes, members):
        self._sizes = sizes
        super().__init__(members)

    def __eq__(self, other):
        return type(self) is type(other) and self._sizes == other._sizes

    def __repr__(self):
        return f"{type(self).__name__}{self._sizes}"


class AxiRead(_Signature):
    """``ar`` (Out) and ``r`` (In)."""
    def __init__(self, *, addr_bits, port_bytes, id_bits=1):
        super().__init__((addr_bits, port_bytes, id_bits), {
            "ar": Out(stream.Signature(Address(addr_bits, id_bits))),
            "r": In(stream.Signature(ReadData(port_bytes, id_bits))),
        })


class AxiWrite(_Signature):
    """``aw``, ``w`` (Out) and ``b`` (In)."""
    def __init__(self, *, addr_bits, port_bytes, id_bits=1):
        super().__init__((addr_bits, port_bytes, id_bits), {
            "aw": Out(stream.Signature(Address(addr_bits, id_bits))),
            "w": Out(stream.Signature(WriteData(port_bytes))),
            "b": In(stream.Signature(WriteResponse(id_bits))),
        })


class AxiLite(_Signature):
    """32-bit AXI4-Lite: ``aw``, ``w``, ``ar`` (Out), ``b``, ``r`` (In). ``aw`` and ``ar`` carry the byte address
    alone, ``b`` the response alone."""
    def __init__(self, *, addr_bits):
        super().__init__((addr_bits,), {
            "aw": Out(stream.Signature(addr_bits)),
            "w": Out(stream.Signature(LiteWrite)),
            "b": In(stream.Signature(2)),
            "ar": Out(stream.Signature(addr_bits)),
            "r": In(stream.Signature(LiteRead)),
        })
