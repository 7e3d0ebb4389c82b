"""Codes of the cache and windows of the golden model, against the same definition in plain floating point."""

import math
from dataclasses import replace

import pytest
import torch
from random_models import SMALL, random_checkpoint

from celosia.gen.golden import f32
from celosia.gen.golden.model import KV_TOPS, GoldenModel
from celosia.gen.place import rope_table
from celosia.gen.quantise import quantise

CONTEXT = 40


def golden_with(config, seed=0, **options):
    return GoldenModel(quantise(random_checkpoint(config, seed)), rope_table(config, CONTEXT), n_slices=4, **options)


def rounded(row, top):
    """A row of Python floats as codes within -top .. top times their scale; round half to even as Python does."""
    largest = max(max(map(abs, row)), 1e-5)
    return [round(x * top / largest) * largest / top for x in row]


def turned(row, position, theta):
    half = len(row) // 2
    angles = [position * theta ** (-i / half) for i in range(half)]
    return [row[i] * math.cos(a) - row[i + half] * math.sin(a) for i, a in enumerate(angles)] + \
           [row[i + half] * math.cos(a) + row[i] * math.sin(a) for i, a in enumerate(angles)]


def plain_attention(golden, layer, codes, scale, key_top, value_top, window, sinks, rebase, bidirectional=False):
    """float64 (T, heads, D), of lists and loops. With ``rebase`` as StreamingLLM has it: what a token sees gets positions 0, 1, 2,
    .. in order, keys and the query itself alike."""
    c, n = golden.config, len(codes)
    matrices = quantise(random_checkpoint(c)).layers[layer]

    def rows(name):
        matrix = getattr(matrices, name)
        y = codes.double() * scale.double() @ (matrix.weights.double() * matrix.scale.double()[:, None]).T
        return y.view(n, -1, c.head_dim).tolist()

    q, k, v = (rows(name) for name in "qkv")
    found = torch.zeros(n, c.n_heads, c.head_dim, dtype=torch.float64)
    for head in range(c.n_heads):
        kv = head // c.group
        values = [rounded(v[j][kv], value_top) for j in range(n)]
        for i in range(n):
            seen = [j for j in range(n if bidirectional else i + 1) if not window or j < sinks or j > i - window]
            places = range(len(seen)) if rebase and window else seen
            at = places[seen.index(i)]
            weights = []
            for j, place in zip(seen, places):
                query = rounded(turned(q[i][head], j + at - place, c.rope_theta), 127)     # at this distance from the key
                key = rounded(turned(k[j][kv], j, c.rope_theta), key_top)
                weights.append(math.exp(sum(a * b for a, b in zip(query, key)) / math.sqrt(c.head_dim)))
            found[i, head] = sum(w / sum(weights) * torch.tensor(values[j], dtype=torch.float64) for w, j in zip(weights, seen))
    return found


@pytest.mark.parametrize("kv", KV_TOPS)
@pytest.mark.parametrize("window, sinks, rebase", [(0, 0, True), (5, 0, True), (5, 2, True), (5, 2, False), (1, 0, True),
                                                   (1, 7, True)])
def test_attention_is_that_of_the_definition(kv, window, sinks, rebase):
    config = SMALL.with_window(window, sinks, rebase)
    golden, n, layer = golden_with(config, kv=kv), 20, 1
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-128, 128, (n, config.hidden_size), generator=generator).to(torch.int8)
    scale = (0.5 + torch.rand(n, 1, generator=generator)) / 50
    found = golden._attention(layer, codes, scale, slice(0, n)).view(n, config.n_heads, -1).double()
    wanted = plain_attention(golden, layer, codes, scale, *KV_TOPS[kv], window, sinks, rebase)
    assert (found - wanted).abs().max() < 2**-10 * wanted.abs().max()
    assert golden.keys[layer].abs().max() == KV_TOPS[kv][0] and golden.values[layer].abs().max() == KV_TOPS[kv][1]


def test_tokens_of_a_bidirectional_model_see_all_of_their_text():
    config = replace(SMALL, bidirectional=True)
    golden, n, layer = golden_with(config), 12, 1
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(-128, 128, (n, config.hidden_size), generator=generator).to(torch.int8)
    scale = (0.5 + torch.rand(n, 1, generator=generator)) / 50
    found = golden._attention(layer, codes, scale, slice(0, n)).view(n, config.n_heads, -1).double()
    wanted = plain_attention(golden, layer, codes, scale, 127, 127, 0, 0, False, bidirectional=True)
    assert (found - wanted).abs().max() < 2**-10 * wanted.abs().max()
    with pytest.raises(ValueError, match="^Model windows must be 0, for all positions, in a bidirectional model, not "):
        config.with_window(5)


@pytest.mark.parametrize("kv", ["int4", "k8v4"])
def test_chunks_do_not_change_a_bit_of_int4_and_windows(kv):
    config = replace(SMALL, windows=(7, 0), sinks=2)
    tokens = [5, 1, 17, 29, 8, 8, 20, 3, 11, 4, 26, 13, 2, 9, 21, 7]
    whole, parts = (golden_with(config, kv=kv) for _ in range(2))
    logits = [parts.forward(tokens[first:end], first) for first, end in ((0, 1), (1, 4), (4, 13), (13, 16))]
    assert torch.equal(f32.to_bits(torch.cat(logits)), f32.to_bits(whole.forward(tokens, 0)))


def test_layers_have_their_own_windows():
    tokens = list(range(20))
    each = [golden_with(config).forward(tokens, 0) for config in
            (SMALL, replace(SMALL, windows=(30, 0)), replace(SMALL, windows=(6, 0)), replace(SMALL, windows=(0, 6)),
             replace(SMALL, windows=(6, 0), sinks=20))]
    assert torch.equal(each[0], each[1]) and torch.equal(each[0], each[4])
    assert torch.equal(each[0][:6], each[2][:6]) and torch.equal(each[0][:6], each[3][:6])
    assert not torch.equal(each[0][6:], each[2][6:]) and not torch.equal(each[2], each[3])


def test_unknown_codes_are_refused():
    with pytest.raises(ValueError, match="Codes of the cache must be one of int8, int4, k8v4, not 'int2'"):
        golden_with(SMALL, kv="int2")
