"""The study of shortlists: what counts as a miss, and small studies of each kind."""

import torch

from celosia.gen.head_study import BEST, CANDIDATES, demo_study, misses, synthetic_study, table
from celosia.gen.model import QHead
from celosia.gen.quantise import HEAD_MAX, coarse_head, quantise_head


def test_a_miss_is_a_best_token_behind_the_candidates():
    exact = torch.tensor([[9.0, 8, 7, 6, 5], [1, 1, 1, 1, 1]])
    coarse = torch.tensor([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    found = misses(exact, coarse, best=(1, 2), candidates=(1, 2, 4, 5))
    assert found == {1: {1: 1, 2: 1, 4: 1, 5: 0}, 2: {1: 2, 2: 1, 4: 1, 5: 0}}


def test_more_candidates_and_more_planes_miss_less():
    free, planted = synthetic_study(400, 60, targets=(None, 8.0), n_states=64)
    for study in (free, planted):
        assert study.n_positions == 64
        for by_n in study.share.values():
            for share in by_n.values():
                assert [share[k] for k in CANDIDATES] == sorted(share.values(), reverse=True)
        assert study.share[2][1][4] <= study.share[1][1][4]
    assert planted.share[1][1][4] <= free.share[1][1][4]
    assert table([free, planted]).count("\n") == 1 + 2 * 2 * len(BEST)


def test_the_demo_rarely_misses_with_sixteen_candidates(tree):
    study = demo_study(tree / "models" / "demo", n_bytes=96)
    assert study.n_positions == 96 and study.share[1][1][16] == 0


def test_coarse_rows_are_the_best_of_the_steps():
    head = quantise_head(torch.randn(40, 30, generator=torch.Generator().manual_seed(3)))
    for planes in (1, 2, 3, 4):
        coarse, limit = coarse_head(head, planes), (3**planes - 1) // 2
        assert coarse.weights.abs().max() <= limit
        whole, found = head.weights.double(), coarse.weights.double()
        error = (whole - found * (coarse.scale / head.scale).double()[:, None]).pow(2).sum(1)
        for step in range(2, 17):
            other = (whole * (16 * limit / step) / whole.abs().amax(1, keepdim=True)).round().clamp(-limit, limit)
            factor = (whole * other).sum(1) / other.pow(2).sum(1).clamp(min=1)
            assert (error <= (whole - other * factor[:, None]).pow(2).sum(1) + 1e-3 * error).all()


def test_a_row_of_zeros_stays_one():
    rows = torch.zeros(2, 10, dtype=torch.int8)
    rows[1] = HEAD_MAX
    coarse = coarse_head(QHead(rows, torch.tensor([0.0, 2.0])), 1)
    assert coarse.weights.tolist() == [[0] * 10, [1] * 10] and coarse.scale.tolist() == [0.0, 2.0 * HEAD_MAX]
