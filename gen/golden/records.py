"""The records of a cache window: where those of a sequence's positions lie, and what their bytes mean.

Position j of a sequence, in page n of G positions, lies on port j mod P in row (n G + j mod G) div P of the region of a layer and
KV head. A record is the key, the two scales (binary32, key's and value's), the value, each padded to whole beats; in four bits
element 2i of a key or value is in the low half of byte i, 2i + 1 in its high half.
"""

import numpy as np
import torch

from celosia.hw.links import record_beats, row_beats, visited_rows

__all__ = ["Region", "low_four", "ranges_read"]


def ranges_read(first_position, window, sinks, n_ports):
    """Ranges [(first, end)] of the past positions that ATTEND reads for a segment (``links.visited_rows``)."""
    start_row, sink_rows = visited_rows(first_position, window, sinks, n_ports)
    return [(0, sink_rows * n_ports), (start_row * n_ports, first_position)] if start_row else [(0, first_position)]


def low_four(codes):
    """int8: the low four bits as a signed number."""
    return ((codes.to(torch.int16) & 15 ^ 8) - 8).to(torch.int8)


class Region:
    """The region at ``addr`` and ``port_stride`` (fields of a descriptor, with ``int4``) for heads of ``head_size`` elements."""

    def __init__(self, config, fields, head_size):
        self._config, self._fields, self._head_size = config, fields, head_size
        beats = head_size // config.port_bytes
        self.record_bytes = record_beats(beats, config.port_bytes, fields["int4"]) * config.port_bytes
        self._four = fields["int4"] & 1, fields["int4"] >> 1        # of keys, of values
        self._row_bytes = [row_beats(beats, four) * config.port_bytes for four in self._four]

    def offsets(self, positions, pages):
        """int64 (n,): first byte of the records of ``positions`` int64 (n,); ``pages`` has the page of every entry of the table
        that they need."""
        c, size = self._config, self._config.page_positions
        page = np.array([pages[entry] for entry in (positions // size).tolist()], np.int64)
        rows = (page * size + positions % size) // c.n_ports
        return self._fields["addr"] + positions % c.n_ports * self._fields["port_stride"] + rows * self.record_bytes

    def pack(self, key, key_scale, value, value_scale):
        """uint8 (n, record_bytes): keys and values int8 (n, head_size), their scales float32 (n,)."""
        records = np.zeros((len(key), self.record_bytes), np.uint8)
        scales = torch.stack((key_scale, value_scale), 1).numpy().view(np.uint8)
        key_bytes, value_bytes = self._row_bytes
        for start, part in ((0, _bytes(key, self._four[0])), (key_bytes, scales),
                            (self.record_bytes - value_bytes, _bytes(value, self._four[1]))):
            records[:, start:start + part.shape[1]] = part
        return records

    def unpack(self, records):
        """Inverse of :meth:`pack`: (key, key_scale, value, value_scale)."""
        key_bytes, value_bytes = self._row_bytes
        scales = torch.from_numpy(records[:, key_bytes:key_bytes + 8].copy().view("<f4"))
        key = self._codes(records[:, :key_bytes], self._four[0])
        return key, scales[:, 0], self._codes(records[:, self.record_bytes - value_bytes:], self._four[1]), scales[:, 1]

    def _codes(self, raw, four_bits):
        if four_bits:
            raw = np.stack((raw & 15, raw >> 4), 2).reshape(len(raw), 2 * raw.shape[1])[:, :self._head_size]
            return low_four(torch.from_numpy(raw.copy().view(np.int8)))
        return torch.from_numpy(raw.copy().view(np.int8))


def _bytes(codes, four_bits):
    raw = codes.numpy().view(np.uint8)
    return raw[:, 0::2] & 15 | raw[:, 1::2] << 4 if four_bits else raw
