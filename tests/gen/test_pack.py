"""Packing of trits: inverse pairs, order, sizes, and refusal of what is not legal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from celosia.gen import pack
from celosia.gen.golden.matmul import join_planes, matmul
from celosia.hw.configs import CONFIGS
from celosia.hw.formats import pack_trit_byte

configs = st.sampled_from(sorted(CONFIGS.values(), key=lambda config: config.name))
trits = st.integers(-1, 1)


@st.composite
def matrices(draw):
    """(weights (N, K) int32, n_planes) with the extremes drawn often."""
    n_planes = draw(st.integers(1, 6))
    limit = (3**n_planes - 1) // 2
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return draw(hnp.arrays(np.int32, shape, elements=st.integers(-limit, limit))), n_planes


@given(matrices())
def test_planes_are_the_digits(case):
    weights, n_planes = case
    planes = pack.to_planes(weights, n_planes)
    assert planes.dtype == np.int8 and planes.shape == (n_planes, *weights.shape)
    assert np.array_equal(pack.from_planes(planes), weights)
    assert np.array_equal(join_planes(torch.from_numpy(planes)).numpy(), weights)


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(0, 4).map(lambda n: 5 * n)), elements=trits))
def test_trits_survive_the_bytes(values):
    packed = pack.pack_trits(values)
    assert packed.shape == (values.shape[0], values.shape[1] // 5)
    assert np.array_equal(pack.unpack_trits(packed), values)


def test_every_legal_byte_is_what_the_format_says():
    every = np.arange(243, dtype=np.uint8)
    values = pack.unpack_trits(every)
    assert np.array_equal(pack.pack_trits(values), every)
    assert [pack_trit_byte(row) for row in values.reshape(-1, 5)] == list(range(243))
    assert pack.pack_trits(np.zeros(5, np.int8)).tolist() == [pack.ZERO_BYTE] == [121]


@settings(deadline=None, max_examples=60)
@given(configs, st.data())
def test_a_matrix_survives_the_ports(config, data):
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2 * config.row_block_rows + 3)),
             data.draw(st.integers(1, 2 * config.columns + 1)))
    planes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-1, 2, shape).astype(np.int8)
    ports = pack.pack_matmul(planes, config)
    n_bytes = pack.matmul_beats(*shape, config) * config.port_bytes
    assert [port.shape for port in ports] == [(n_bytes,)] * config.n_ports
    assert all(port.dtype == np.uint8 for port in ports)
    assert np.array_equal(pack.unpack_matmul(ports, *shape, config), planes)
    rows, columns = pack.padded_shape(*shape[1:], config)
    assert 5 * n_bytes * config.n_ports == shape[0] * rows * columns      # 1.6 bits a trit


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_beats_come_in_the_order_of_the_instruction_set(config):
    """Every trit is looked up where the rules of isa.Matmul put it, one by one."""
    n_planes, n_rows, n_columns = 2, config.row_block_rows + config.row_quantum, config.columns + 3
    rng = np.random.default_rng(5)
    planes = rng.integers(-1, 2, (n_planes, n_rows, n_columns)).astype(np.int8)
    ports = pack.pack_matmul(planes, config)
    n_col_blocks = 2
    for _ in range(300):
        k, n, c = rng.integers(n_planes), rng.integers(n_rows), rng.integers(n_columns)
        block, in_block = divmod(n, config.row_block_rows)
        groups_here = min(config.max_row_groups, (n_rows - block * config.row_block_rows) // config.engine_rows)
        beat = (block * n_planes * n_col_blocks * config.max_row_groups
                + (k * n_col_blocks + c // config.columns) * groups_here + in_block // config.engine_rows)
        byte = (in_block % config.engine_rows) * (config.columns // 5) + c % config.columns // 5
        port, at = divmod(byte, config.port_bytes)
        code = int(ports[port][beat * config.port_bytes + at])
        assert code // 3 ** (c % 5) % 3 - 1 == planes[k, n, c]


def test_pieces_of_whole_row_blocks_join():
    config = CONFIGS["duo"]
    planes = np.random.default_rng(1).integers(-1, 2, (3, 2 * config.row_block_rows + 10, 33)).astype(np.int8)
    cut = config.row_block_rows
    pieces = [pack.pack_matmul(planes[:, top:top + cut], config) for top in range(0, planes.shape[1], cut)]
    for port, whole in enumerate(pack.pack_matmul(planes, config)):
        assert np.array_equal(np.concatenate([piece[port] for piece in pieces]), whole)


def test_refuses_what_is_not_legal():
    config = CONFIGS["tiny"]
    planes = np.zeros((1, 4, 10), np.int8)
    ports = pack.pack_matmul(planes, config)
    assert np.unique(ports[0]).tolist() == [121]
    with pytest.raises(ValueError, match="at most 242, not 243"):
        pack.unpack_matmul([np.where(np.arange(ports[0].size) == 3, 243, ports[0])], 1, 4, 10, config)
    with pytest.raises(ValueError, match="Padding of a 3 x 10 matrix"):
        pack.unpack_matmul([np.where(np.arange(ports[0].size) == 7, 122, ports[0])], 1, 3, 10, config)
    with pytest.raises(ValueError, match="1 ports of 32 bytes"):
        pack.unpack_matmul(ports, 1, 8, 10, config)
    with pytest.raises(ValueError, match="Trits must be -1, 0 or"):
        pack.pack_matmul(planes + 2, config)
    with pytest.raises(ValueError, match="within -4..4, not 5..5"):
        pack.to_planes(np.array([[5]]), 2)
    with pytest.raises(ValueError, match="must have rows and columns"):
        pack.pack_matmul(np.zeros((1, 0, 10), np.int8), config)


@settings(deadline=None, max_examples=40)
@given(matrices(), st.integers(1, 4), st.integers(0, 99))
def test_golden_product_is_the_integer_product(case, n_tokens, seed):
    weights, n_planes = case
    act = np.random.default_rng(seed).choice([-128, -1, 0, 1, 127], (n_tokens, weights.shape[1])).astype(np.int8)
    acc = matmul(torch.from_numpy(pack.to_planes(weights, n_planes)), torch.from_numpy(act))
    assert acc.dtype == torch.int32
    assert np.array_equal(acc.numpy(), act.astype(np.int64) @ weights.T.astype(np.int64))


def test_golden_product_refuses_overflow():
    planes = torch.ones((15, 1, 4), dtype=torch.int8)
    with pytest.raises(AssertionError, match="does not fit 32 bits"):
        matmul(planes, torch.full((1, 4), -128, dtype=torch.int8))
