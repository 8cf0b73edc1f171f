"""Latencies from event times: the definitions, by hand; percentiles; the steady state; what falls into a span."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.measure.latencies import (
    Limits,
    Loop,
    Progress,
    Served,
    Span,
    batch,
    in_flight,
    latency,
    percentiles,
    run_of,
    steady,
    tokens_in,
    whole,
    work_of,
)

S = 10**9


def served(sent: float, *pieces: float, tokens: list[int] | None = None, total: int | None = None, given: int = 5):
    """A request, in seconds; one token a piece unless said otherwise. `total` alone: the engine told only that."""
    each = None if total is not None else np.array(tokens or [1] * len(pieces))
    times = np.array([round(p * S) for p in pieces], dtype=np.int64)
    return Served(round(sent * S), times, each, given, total if each is None else int(each.sum()))


def closed_loop(c: int, n: int, length: float = 1.0) -> list[Served]:
    """n requests of two tokens (0.5 s apart), c at a time, one beginning every length / c seconds."""
    return [served(i * length / c, i * length / c + length / 2, i * length / c + length) for i in range(n)]


def test_times_of_one_request_are_those_of_the_definitions():
    """Sent at 1, pieces at 1.5, 1.7, 2.0: TTFT 0.5, TPOT (2.0 - 1.5) / 2, gaps 0.2 and 0.3, E2EL 1.0."""
    one = served(1, 1.5, 1.7, 2.0)

    found = latency([one], whole([one]), Loop(1))

    assert found.ttft_s.mean == pytest.approx(0.5)
    assert found.tpot_s.mean == pytest.approx(0.25)
    assert (found.itl_s.n, found.itl_s.mean) == (2, pytest.approx(0.25))
    assert found.icl_s is None
    assert found.e2el_s.mean == pytest.approx(1.0)
    assert found.goodput_per_s is None


def test_pieces_of_several_tokens_give_inter_chunk_latency_and_a_time_per_token_that_counts_all():
    one = served(0, 1, 2, 3, tokens=[1, 4, 4])

    found = latency([one], whole([one]), Loop(1))

    assert found.itl_s is None
    assert (found.icl_s.n, found.icl_s.mean) == (2, pytest.approx(1.0))
    assert found.tpot_s.mean == pytest.approx(2 / 8)


def test_one_piece_of_several_tokens_among_many_requests_takes_the_name_itl_away():
    both = [served(0, 1, 2), served(0, 1, 2, tokens=[1, 2])]

    found = latency(both, whole(both), Loop(2))

    assert (found.itl_s, found.icl_s.n) == (None, 2)


@pytest.mark.parametrize(("total", "single"), [(3, True), (4, False)])
def test_a_total_tells_whether_pieces_were_single_tokens(total: int, single: bool):
    one = served(0, 1, 2, 3, total=total)

    found = latency([one], whole([one]), Loop(1))

    assert (found.itl_s is not None, found.icl_s is not None) == (single, not single)


def test_an_answer_of_one_token_has_no_time_per_token_and_no_gap():
    one = served(0, 1)

    found = latency([one], whole([one]), Loop(1, limits=Limits(tpot_s=0.001)))

    assert (found.tpot_s, found.itl_s, found.icl_s) == (None, None, None)
    assert found.goodput_per_s == pytest.approx(1.0)


def test_goodput_counts_requests_within_all_limits():
    """Two of three are in time: one has a late first token, though it ends in time."""
    three = [served(0, 0.1, 1), served(0, 0.8, 1), served(1, 1.1, 2)]

    found = latency(three, whole(three), Loop(2, limits=Limits(ttft_s=0.5, tpot_s=1.0, e2el_s=1.0)))

    assert found.goodput_per_s == pytest.approx(2 / 2)


def test_a_queue_has_no_time_to_the_first_token_and_no_end_to_end():
    two = [served(0, 1, 2), served(0, 3, 4)]

    found = latency(two, whole(two), Loop(1, queued=True))

    assert (found.ttft_s, found.e2el_s) == (None, None)
    assert found.tpot_s.n == 2


@pytest.mark.parametrize(("n", "p50", "p90", "p99"), [
    (19, False, False, False), (20, True, False, False), (99, True, False, False), (100, True, True, False),
    (999, True, True, False), (1000, True, True, True),
])  # fmt: skip
def test_a_percentile_needs_ten_values_beyond_it(n: int, p50: bool, p90: bool, p99: bool):
    found = percentiles(list(range(n)))

    assert [one is not None for one in (found.p50, found.p90, found.p99)] == [p50, p90, p99]
    assert found.mean == pytest.approx((n - 1) / 2)


def test_percentiles_interpolate_linearly():
    """1..100: the 90th percentile lies at rank 0.9 * 99 = 89.1 from 0, so 90.1; the 50th at 49.5, so 50.5."""
    found = percentiles([float(v) for v in range(1, 101)])

    assert (found.p50, found.p90) == (pytest.approx(50.5), pytest.approx(90.1))


def test_no_values_have_no_percentiles():
    assert percentiles([]) is None


def test_the_steady_state_is_that_of_ml_energy():
    """8 requests, 2 at a time, a second each, every half second: the second first token comes at 1.0; 8 - 2 - 1 = 5
    have ended at 3.0."""
    assert steady(closed_loop(2, 8), 2) == Span(1 * S, 3 * S)


def test_a_span_holds_what_ends_inside_it_without_its_first_instant():
    """From 1.0 to 3.0: requests end at 1.0 (not counted), 1.5, 2.0, 2.5, 3.0; first tokens come at these times too."""
    found = run_of(closed_loop(2, 8), Span(1 * S, 3 * S))

    assert (found.requests, found.output_tokens, found.input_tokens) == (4, 8, 20)
    assert found.duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_requests_have_no_steady_state(n: int):
    """2 at a time: 4 requests are the least of which one ends before the last three."""
    assert steady(closed_loop(2, n), 2) is None
    assert steady(closed_loop(2, 5), 2) is not None


def test_work_without_steady_state_is_the_whole_run_and_says_so():
    three = closed_loop(2, 3)

    found = work_of(three, Loop(2))

    assert "not_steady" in found.reasons
    assert (found.start_ns, found.end_ns) == (whole(three).start_ns, whole(three).end_ns)


def test_work_is_the_steady_state_with_the_whole_run_beside_it():
    found = work_of(closed_loop(2, 8), Loop(2))

    assert (found.output_tokens, found.seconds) == (8, pytest.approx(2.0))
    assert (found.whole_run.output_tokens, found.whole_run.duration_s) == (16, pytest.approx(4.5))
    assert (found.whole_run.requests, found.whole_run.input_tokens) == (8, 40)
    assert found.reasons == ("few_requests",)


def test_many_requests_give_no_reason():
    """1100 requests one after the other, with 1099 gaps in the window at the least."""
    found = work_of(closed_loop(1, 1100), Loop(1))

    assert found.reasons == ()
    assert found.latency.ttft_s.p99 == pytest.approx(0.5)


def test_a_loop_with_half_its_requests_in_flight_is_not_steady():
    """Four should be in flight, and at any time there are two."""
    assert "not_steady" in work_of(closed_loop(2, 20), Loop(4)).reasons


def test_a_batch_of_a_queue_is_the_answers_that_grow_together():
    rows = [served(0, 1, 2, 3, 4), served(0, 1, 2, 3, 4), served(0, 3, 4)]

    assert batch(rows, Span(0, 4 * S)) == pytest.approx(10 / 4)
    assert in_flight(rows, Span(0, 4 * S)) == pytest.approx(3.0)


def test_tokens_of_a_request_that_straddles_an_edge_are_shared_out_by_pieces():
    assert tokens_in(served(0, 1, 2, 3, 4, total=8), Span(0, 2 * S)) == 4
    assert tokens_in(served(0, 1, 2, 3, 4, tokens=[1, 2, 3, 4]), Span(0, 2 * S)) == 3


REQUEST = st.tuples(st.integers(1, 10**9), st.lists(st.integers(0, 10**8), min_size=1, max_size=6))
LOOPS = st.integers(1, 6).flatmap(lambda c: st.tuples(st.just(c), st.lists(REQUEST, min_size=c, max_size=40)))


def run_loop(c: int, asked: list[tuple[int, list[int]]]) -> list[Served]:
    """A closed loop of c workers; each request takes so long to its first piece, and has such gaps behind it."""
    free, found = [0] * c, []
    for first, gaps in asked:
        at = min(range(c), key=free.__getitem__)
        times = np.cumsum([free[at] + first, *gaps])
        found.append(Served(free[at], times, np.ones(len(times), dtype=np.int64), 1, len(times)))
        free[at] = int(times[-1])
    return found


@given(LOOPS)
def test_spans_that_divide_a_run_divide_its_tokens_and_requests(loop):
    c, asked = loop
    made = run_loop(c, asked)
    around = whole(made)
    middle = (around.start_ns + around.end_ns) // 2
    parts = [run_of(made, Span(around.start_ns, middle)), run_of(made, Span(middle, around.end_ns))]
    total = run_of(made, around)

    assert total.output_tokens == sum(one.output_tokens for one in made) == sum(p.output_tokens for p in parts)
    assert total.requests == len(made) == sum(p.requests for p in parts)
    assert total.input_tokens == sum(p.input_tokens for p in parts)


@given(LOOPS)
def test_a_steady_state_lies_inside_the_run_and_never_has_more_in_flight_than_asked(loop):
    c, asked = loop
    made = run_loop(c, asked)
    span = steady(made, c)
    if span is not None:
        around = whole(made)

        assert around.start_ns < span.start_ns < span.end_ns <= around.end_ns
        assert sum(one.last_ns > span.end_ns for one in made) <= c + 1
        assert 0 <= in_flight(made, span) <= c + 1e-9


@given(LOOPS)
def test_progress_foretells_the_steady_state(loop):
    """Whatever order pieces come in, the length that `Progress` gives for all of them is that of `steady`."""
    c, asked = loop
    made = run_loop(c, asked)
    progress = Progress(c)
    for t in sorted(one.first_ns for one in made):
        progress.begun(t)
    for t in sorted(one.last_ns for one in made):
        progress.ended(t)
    span = steady(made, c)

    assert max(0.0, progress.seconds(len(made))) == pytest.approx(0.0 if span is None else span.seconds)


@given(st.lists(st.floats(1e-3, 10), min_size=2, max_size=50))
def test_mean_gap_of_single_tokens_is_the_time_per_token(gaps: list[float]):
    times = np.cumsum([0.5, *gaps])
    one = served(0, *times)

    found = latency([one], whole([one]), Loop(1))

    assert found.itl_s.mean == pytest.approx(found.tpot_s.mean)
    assert found.e2el_s.mean == pytest.approx(found.ttft_s.mean + found.tpot_s.mean * len(gaps))
