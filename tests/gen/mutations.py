"""Damage to files of checkpoints: bytes, JSON values, and the JSON header of safetensors. Every function takes a random.Random."""

import json
import struct

__all__ = ["damaged_bytes", "damaged_json", "damaged_safetensors"]

_INTEGERS = (0, 1, 2, 3, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_VALUES = (None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), "", "x",
           "\ud800", "../config.json", "/dev/zero", [], [1], [-1, 2], [[]], [2**40, 2**40], {}, {"x": 1}, "F64", "I8", "U8",
           "bitnet")
_NEAR_BYTES = 3000


def damaged_bytes(data, rng):
    """``data`` with one to three kinds of damage, most of it near the ends."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        near, where = rng.randrange(min(len(data), _NEAR_BYTES)), rng.random()
        at = near if where < 0.6 else len(data) - 1 - near if where < 0.8 else rng.randrange(len(data))
        how = rng.randrange(7)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at] = rng.randrange(256)
        elif how == 2:
            del data[at:]
        elif how == 3:
            code, bits = rng.choice([("<I", 32), ("<Q", 64)])
            raw = struct.pack(code, rng.choice(_INTEGERS) % 2**bits)
            data[at:at + len(raw)] = raw
        elif how == 4:
            del data[at:at + rng.choice((1, 4, 8, 100))]
        elif how == 5:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 8))))
        else:
            other, n_bytes = rng.randrange(len(data)), rng.choice((1, 4, 8, 64))
            data[at:at + n_bytes] = data[other:other + n_bytes]
    return bytes(data)


def damaged_json(data, rng):
    """JSON text with values replaced, removed, swapped with others, or put one level deeper."""
    found = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(found))
        if not places:
            break
        holder, key = rng.choice(places)
        how = rng.randrange(5)
        if how == 0:
            del holder[key]
        elif how == 1:
            other, other_key = rng.choice(places)
            holder[key], other[other_key] = json.loads(json.dumps(other[other_key])), json.loads(json.dumps(holder[key]))
        elif how == 2:
            holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, str(holder[key])))
        else:
            holder[key] = rng.choice((*_VALUES, *_INTEGERS))
    text = json.dumps(found)
    if rng.random() < 0.03:
        text = rng.choice("[{") * 5000 + text
    return text.encode("utf-8", "surrogatepass")


def _places(value):
    """(list or dict, key) of everything inside; no more than a few of long lists."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 20)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def damaged_safetensors(data, rng):
    """A safetensors file whose header lies: shapes, types, offsets, its own length."""
    n_bytes, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n_bytes])
    tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
    how = rng.randrange(4)
    if how == 0:
        tensor["shape"] = tensor["shape"][::-1]
    elif how == 1:
        tensor["shape"] = [rng.choice(_INTEGERS) for _ in range(rng.randrange(4))]
    elif how == 2:
        tensor["data_offsets"][rng.randrange(2)] = rng.choice(_INTEGERS)
    text = json.dumps(header).encode() if how < 3 else damaged_json(json.dumps(header).encode(), rng)
    length = rng.choice(_INTEGERS) if rng.random() < 0.1 else len(text)
    return struct.pack("<Q", length) + text + data[8 + n_bytes:]
