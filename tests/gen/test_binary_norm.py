"""The golden layer norm of integers against binary64, and what it refuses."""

import struct

import pytest
import torch

from celosia.gen.golden.binary.norm import layer_norm, norm, normalised

_LARGEST = (1 << 17) - 1


def scalars(d, eps=0.0, center=1):
    shift = 17 + (d - 1).bit_length()
    return {"inv_d": round((1 << shift) / d), "mean_shift": shift, "eps": round(eps * d * d * (1 << 20)),
            "imm": struct.unpack("<I", struct.pack("<f", d * 2.0 ** 26))[0], "center": center}


@pytest.mark.parametrize("d", [2, 3, 64, 77, 768, 4095, 4096])
@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_is_near_binary64(d, center, eps):
    """The bound of the docstring, over deviations of 2**-9 to 2**6 and means of up to 2**6, where nothing is clamped."""
    noise = torch.Generator().manual_seed(d + center)
    lanes = 64
    deviation = 2.0 ** torch.linspace(1, 16, lanes, dtype=torch.float64)
    mean = (torch.rand(lanes, generator=noise, dtype=torch.float64) * 2 - 1) * 2.0 ** torch.linspace(0, 16, lanes)
    x = (torch.randn(d, lanes, generator=noise, dtype=torch.float64) * deviation + mean).round().clamp(-_LARGEST, _LARGEST)
    real = x / 1024
    middle = real.mean(0) * center
    given = scalars(d, eps, center)
    spread = ((real - middle).square().mean(0) + given["eps"] / (d * d << 20)).sqrt()
    usable = spread >= 2.0 ** -9
    exact = (real - middle) / spread
    found = normalised(x.to(torch.int64), **given) / 4096
    off = center * (2.0 ** -11 + middle.abs() * 2.0 ** -18) / spread
    bound = 2.0 ** -13 + off + exact.abs() * (spread * 2.0 ** -17 + 2.0 ** -21)
    error = (found - exact).abs()
    inside = usable & (exact.abs() < 31) & ((real - middle).abs() < 127)
    assert inside.sum() > 0.5 * inside.numel()
    assert (error <= bound)[inside].all(), f"{(error / bound)[inside].max():.3f} times the bound"


def test_rows_that_do_not_vary_are_zero():
    for value in (-_LARGEST - 1, -5, 0, 1, _LARGEST):
        assert not normalised(torch.full((48, 4), value), **scalars(48)).any()


@pytest.mark.parametrize("d", [1, 7, 512])
def test_gain_and_bias(d):
    """y = n * gain + bias, in units of x: n has two bits more."""
    noise = torch.Generator().manual_seed(d)
    x = torch.randint(-4000, 4000, (d, 8), generator=noise)
    n = normalised(x, **scalars(d))
    gain = torch.tensor([3 << 14] * d) + (torch.arange(d) % 200 - 100 << 34)     # 3 / 4 and (row - 100) 2**16
    y = layer_norm(x, gain, 18, **scalars(d))
    assert (y == (n * (3 << 14) + ((torch.arange(d) % 200 - 100) << 16)[:, None] >> 18)).all()


def test_activations():
    fields = scalars(2) | {"shift": 14, "shift2": 16, "to_act": 1, "a_bits": 1, "lo": -3, "hi": 5}
    x = torch.tensor([[1024, -1024], [-1024, 1024]])
    gain, threshold, flipped = 1 << 12, 1024, 1024 | 1 << 32       # y = x
    y, bits = norm(fields, x, torch.tensor([gain, threshold, gain, flipped]))
    assert y.tolist() == [[1024, -1024], [-1024, 1024]] and bits.tolist() == [[1, 0], [1, 0]]
    _, values = norm(fields | {"a_bits": 8}, x, torch.tensor([gain, 1 << 8, gain, (-1 << 15 << 18) + (1 << 8)]))
    assert values.tolist() == [[4, -3], [-3, 3]]
    assert norm(fields | {"to_act": 0}, x, torch.tensor([gain, 0, gain, 0]))[1] is None


@pytest.mark.parametrize("change, sentence", [
    ({"shift": 21}, "must be 12 to 20, not 21"), ({"mean_shift": 16}, "must be 17 to 32, not 16"),
    ({"imm": 0x7F80_0000}, "must be a positive number"), ({"a_bits": 2}, "must be 1 or 8, not 2"),
    ({"a_bits": 8, "shift2": 8}, "must be 12 to 20, not 8"),
])
def test_refuses(change, sentence):
    fields = scalars(1) | {"shift": 14, "shift2": 16, "to_act": 1, "a_bits": 1, "lo": -3, "hi": 5}
    with pytest.raises(ValueError, match=sentence):
        norm(fields | change, torch.zeros(1, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
