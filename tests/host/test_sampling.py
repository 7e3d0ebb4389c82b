import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celosia.host.sampling import Candidates, Sampler

FIVE = Candidates(np.array([7, 3, 9, 1, 4]), np.array([3.0, 2.5, 1.0, 0.0, -9.0], np.float32))


def test_greedy_takes_the_first():
    assert Sampler()(FIVE) == 7


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 5), st.integers(1, 5), st.floats(0.01, 1))
def test_draws_come_from_the_kept_candidates_and_repeat_with_the_seed(seed, temperature, top_k, top_p):
    options = dict(temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = [Sampler(seed=seed, **options)(FIVE) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] in FIVE.tokens[:top_k]


def test_small_top_p_keeps_only_the_best():
    assert {Sampler(temperature=1.0, top_p=0.01, seed=seed)(FIVE) for seed in range(50)} == {7}


def test_frequencies_follow_the_softmax():
    two = Candidates(np.array([0, 1]), np.array([np.log(3.0), 0.0], np.float32))
    sampler = Sampler(temperature=1.0, seed=1)
    share = np.mean([sampler(two) == 0 for _ in range(4000)])
    assert abs(share - 0.75) < 0.03


@pytest.mark.parametrize("options, sentence", [
    (dict(temperature=-1), "temperature must be zero or more, not -1"),
    (dict(top_k=0), "top_k must be at least 1, not 0"),
    (dict(top_p=0), "top_p must be more than 0 and at most 1, not 0"),
])
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Sampler(**options)
