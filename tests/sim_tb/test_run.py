# amaranth: UnusedElaboratable=no
"""The bench runner and the stream ends: right designs pass, wrong ones and wrong expectations fail."""

import pytest

from celosia.sim_tb.run import simulate
from designs import Buffer

BENCH = "buffer_bench"
pytestmark = pytest.mark.sim


def test_buffer_passes():
    simulate(Buffer(), BENCH, name="buffer", parameters={"n_beats": 200}, testcase=["keeps_order", "full_rate"])


def test_wrong_expectation_fails():
    with pytest.raises(AssertionError, match=r"buffer: 1 of 1 tests failed: wrong_expectation; the end of"):
        simulate(Buffer(), BENCH, name="buffer", testcase="wrong_expectation")


def test_missing_beat_fails():
    with pytest.raises(AssertionError, match=r"(?s)waits_for_ever.*o: 2 of 3 beats came, then none for 50 cycles"):
        simulate(Buffer(), BENCH, name="buffer", testcase="waits_for_ever")


def test_untaken_beat_fails():
    with pytest.raises(AssertionError, match=r"(?s)offers_too_much.*i: beat 2 was not taken within 50 cycles"):
        simulate(Buffer(), BENCH, name="buffer", testcase="offers_too_much")


def test_monitor_sees_a_payload_change():
    with pytest.raises(AssertionError, match=r"(?s)keeps_order.*o: the payload changed from 0x\w+ to 0x\w+ before"):
        simulate(Buffer(break_rules=True), BENCH, name="buffer", parameters={"n_beats": 50}, testcase="keeps_order")


def test_no_such_test_fails():
    with pytest.raises(AssertionError, match=r"buffer: the bench ran 0 tests"):
        simulate(Buffer(), BENCH, name="buffer", testcase="nothing")
