"""Error of the integer attention (``gen/golden/attention.py``) against softmax in binary64, on rows that are made to be hard.

    int8 q, k, v and binary32 factors ──┬── attend ──────────────► out
                                        └── binary64 softmax ────► exact          error = |out - exact| / V

with V = 127 max_j |vs_j|, the largest value there can be. Both see the same int8 vectors and scales: what rounding to int8 costs is
no part of it (``attention_study`` measures that, in perplexity).
"""

import torch

from celosia.gen.golden import f32
from celosia.gen.golden.attention import attend

__all__ = ["CASES", "LENGTHS", "errors", "worst"]

LENGTHS = (16, 64, 256, 1024, 4096)
N_SEEDS = 4
N_SLICES, GROUP, HEAD_DIM = 4, 8, 64
_LARGEST = 127 * 127 * HEAD_DIM     # of a sum of products


def _random(n, generator, *shape):
    return torch.randint(-127, 128, (n, *shape), generator=generator).to(torch.int8)


def _row(n, generator, spread, scores=None):
    """q, qf, k, ks, v, vs of one token: random vectors whose z has the standard deviation ``spread``, or z that are ``scores``
    float (n,), rounded to binary32 (keys equal to the query or its opposite, a scale a position)."""
    q, v = _random(1, generator, GROUP, HEAD_DIM), _random(n, generator, HEAD_DIM)
    vs = (0.5 + torch.rand(n, generator=generator)) / 127
    if scores is None:
        k, ks = _random(n, generator, HEAD_DIM), torch.ones(n)
        qf = torch.full((1, GROUP), spread / (73.3**2 * HEAD_DIM**0.5))    # 73.3: standard deviation of -127 .. 127
    else:
        q, k = torch.full_like(q, 127), torch.full((n, HEAD_DIM), 127, dtype=torch.int8)
        k[scores < 0], ks = -127, scores.abs().float()
        qf = torch.full((1, GROUP), 1 / _LARGEST)
    return q, qf, k, ks, v, vs


def _one_hot(n, generator):
    scores = torch.full((n,), -500.0)
    scores[int(torch.randint(n, (1,), generator=generator))] = 500.0
    return _row(n, generator, 0, scores)


def _alternating(n, generator):
    """Scores +8 and -8 in turn, and values whose signs alternate among those with weight: the sum nearly cancels."""
    q, qf, k, ks, v, vs = _row(n, generator, 0, torch.tensor([8.0, -8.0]).repeat(n // 2))
    return q, qf, k, ks, v.abs() * torch.tensor([1, 1, -1, -1], dtype=torch.int8).repeat(n // 4)[:, None], vs


def _above_a_tail(n, generator, above, value=None):
    """The first position has the score ``above``, the others 0.9 to 1: mantissas that lose most when they are shifted down."""
    scores = 0.9 + 0.1 * torch.rand(n, generator=generator)
    scores[0] = above
    q, qf, k, ks, v, vs = _row(n, generator, 0, scores)
    if value is not None:
        v, vs = torch.full_like(v, -value), torch.full_like(vs, 1 / 127)
        v[0] = value
    return q, qf, k, ks, v, vs


def _small_values(n, generator):
    """Scales of keys and values near the smallest numbers that there are."""
    q, qf, k, ks, v, vs = _row(n, generator, 4.0)
    return q, qf * 2.0**40, k, ks * 2.0**-40, v, vs * 2.0**-100


def _equal(n, generator, value=None):
    q, qf, k, ks, v, vs = _row(n, generator, 0, torch.full((n,), 3.7))
    return (q, qf, k, ks, v, vs) if value is None else (q, qf, k, ks, torch.full_like(v, value), torch.full_like(vs, 1 / 127))


CASES = {   # name: function of positions and a generator of random numbers that gives arguments of attend
    "random, spread 4": lambda n, generator: _row(n, generator, 4.0),
    "random, spread 300": lambda n, generator: _row(n, generator, 300.0),
    "nearly flat, spread 0.001": lambda n, generator: _row(n, generator, 1e-3),
    "one position has all": _one_hot,
    "equal scores": _equal,
    "equal scores, values all -127": lambda n, generator: _equal(n, generator, -127),
    "alternating signs": _alternating,
    "rising by 1/8 a position": lambda n, generator: _row(n, generator, 0, torch.arange(1, n + 1) / 8),
    "falling by 1/8 a position": lambda n, generator: _row(n, generator, 0, torch.arange(n, 0, -1) / 8),
    "first position has half": lambda n, generator: _above_a_tail(n, generator, float(torch.tensor(n).log2()) + 1),
    "first 2**15 above, the others opposite": lambda n, generator: _above_a_tail(n, generator, 16.0, 127),
    "scales near the least": _small_values,
}


def errors(case, n_positions, seed=0):
    """float64 (GROUP, HEAD_DIM): errors of one row of a case, in V."""
    q, qf, k, ks, v, vs = CASES[case](n_positions, torch.Generator().manual_seed(seed))
    acc, scale = attend(q, qf, k, ks, v, vs, n_positions - 1, N_SLICES)
    found = f32.mul(f32.from_int(acc), scale[..., None])[0].double()
    z = (q[0].double() @ k.double().T) * qf[0, :, None].double() * ks.double()
    exact = (z * torch.tensor(2.0).log()).softmax(-1) @ (v.double() * vs[:, None].double())
    return (found - exact).abs() / (127 * float(vs.abs().max()))


def worst(lengths=LENGTHS, n_seeds=N_SEEDS):
    """{case: {positions: (largest error, mean error)}}, in V, over ``n_seeds`` rows."""
    found = {}
    for case in CASES:
        found[case] = {}
        for n in lengths:
            each = torch.stack([errors(case, n, seed) for seed in range(n_seeds)])
            found[case][n] = float(each.max()), float(each.mean())
    return found
