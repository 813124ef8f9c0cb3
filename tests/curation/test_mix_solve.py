"""Apportionment against the list of seats that defines it, and the upsampling curve against published numbers."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.mix.curve import CurveError, above_cut, snap_cut, solve_curve
from curation.mix.solve import apportion, water_fill

CELLS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6)


def by_seats(weights, caps, total, floors):
    """Webster's method as it is defined: seats in order of (seat - 1/2) / weight, the first `total` of them; those
    of the floors come before all others."""
    seats = sorted(
        (Fraction(2 * seat + 1, 2) / weight if seat >= floor else Fraction(-1), place)
        for place, (weight, cap, floor) in enumerate(zip(weights, caps, floors, strict=True))
        for seat in range(cap if weight else floor)
    )
    parts = [0] * len(weights)
    for _, place in seats[:total]:
        parts[place] += 1
    return parts


@given(CELLS, st.data())
def test_water_fill_is_the_first_seats(cells, data):
    weights, caps, floors = zip(*cells, strict=True)
    floors = [min(pair) for pair in zip(caps, floors, strict=True)]
    room = sum(cap if weight else floor for weight, cap, floor in zip(weights, caps, floors, strict=True))
    total = data.draw(st.integers(sum(floors), room))
    assert water_fill(weights, caps, total, floors) == by_seats(weights, caps, total, floors)


def test_floors_and_caps_that_contradict_are_refused():
    with pytest.raises(ValueError, match="a floor is above its cap"):
        water_fill([1, 1], [5, 5], 8, [6, 0])
    with pytest.raises(ValueError, match="2 tokens do not fit: the cells take 3 to 10"):
        water_fill([1, 1], [5, 5], 2, [3, 0])


def hamilton(weights, total):
    """Largest remainders: exact too, but a larger total can take a token from a cell (Alabama's paradox)."""
    parts = [weight * total // sum(weights) for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda n: (-(weights[n] * total % sum(weights)), n))
    for n in by_remainder[: total - sum(parts)]:
        parts[n] += 1
    return parts


def never_shrinks(split, weights, totals) -> bool:
    parts = [split(weights, total) for total in totals]
    return all(a <= b for one, two in itertools.pairwise(parts) for a, b in zip(one, two, strict=True))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_larger_total_never_takes_away(weights):
    assert never_shrinks(apportion, weights, range(60))


def test_largest_remainders_would_fail_that():
    assert not never_shrinks(hamilton, [1, 3, 3], range(60))


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=8), st.integers(0, 10**13))
def test_large_totals_are_exact_and_within_one(weights, total):
    parts = apportion(weights, total)
    assert sum(parts) == total
    assert all(
        abs(part - Fraction(w * total, sum(weights))) < len(parts) for part, w in zip(parts, weights, strict=True)
    )


def test_caps_too_small_are_refused():
    with pytest.raises(ValueError, match="11 tokens do not fit: the cells take 0 to 10"):
        water_fill([1, 1, 0], [5, 5, 100], 11)


# The notebook of dolma3 prints these: topic medicine 1000/2000 tokens and science 3000/4000, cut 0.5, cap 7.
@pytest.mark.parametrize(
    ("buckets", "target", "scale", "top"),
    [([1000, 2000], 6000, 18.317, 3.0), ([3000, 4000], 14000, 29.508, 3.5)],
)
def test_published_example(buckets, target, scale, top):
    curve = solve_curve(buckets, target, cut=0.5, cap=7, max_lambda=0.2)
    assert curve.power == pytest.approx(2.0, abs=1e-3)
    assert curve.rate == pytest.approx(0.2, abs=1e-3)
    assert curve.scale == pytest.approx(scale, abs=1e-3)
    assert curve.rates.tolist() == pytest.approx([0, top], abs=1e-3)


@given(st.lists(st.integers(500, 1500), min_size=20, max_size=20), st.floats(0.01, 1.0))
def test_curve_keeps_its_promises(buckets, filling):
    above = above_cut(buckets, 0.4)
    most = 7 * sum(tokens for tokens, taken in zip(buckets, above, strict=True) if taken)
    target = max(1, int(most * filling))
    curve = solve_curve(buckets, target, cut=0.4, cap=7)
    assert (curve.rates * buckets).sum() == pytest.approx(target, rel=1e-9)
    assert curve.rates.max() <= 7 * (1 + 1e-9)
    assert (np.diff(curve.rates) >= -1e-9).all()
    assert [rate > 0 for rate in curve.rates] == above


@pytest.mark.parametrize("power", [0.0, 0.3, 2.0])
def test_integral_against_a_fine_sum(power):
    """The power series against midpoints of two million strips."""
    from curation.mix.curve import _integral

    strips = (np.arange(2_000_000) + 0.5) / 2_000_000 * 0.6
    expected = (strips**power * np.exp(1.7 * strips)).mean() * 0.6
    assert _integral(np.array([0.6]), power, 1.7)[0] == pytest.approx(expected, rel=1e-5)


def test_curve_is_the_steepest_that_fits():
    """With room to spare the power and lambda are the largest; near the cap they give way, last to a flat step."""
    buckets = [100] * 20
    assert (solve_curve(buckets, 10, 0.4, 7).power, solve_curve(buckets, 10, 0.4, 7).rate) == (2.0, 2.0)
    tight = solve_curve(buckets, 4190, 0.4, 7)
    assert 0 < tight.power < 2
    assert tight.rates.max() == pytest.approx(7, abs=1e-6)
    assert solve_curve(buckets, 8400, 0.4, 7).power == 0.0
    with pytest.raises(CurveError, match="need a rate above 7"):
        solve_curve(buckets, 8401, 0.4, 7)


def test_cut_snaps_down_unless_the_edge_is_a_hair_above():
    assert snap_cut(np.array([0, 0.3, 0.405, 1]), 0.4) == 0.405
    assert snap_cut(np.array([0, 0.3, 0.45, 1]), 0.4) == 0.3
    assert snap_cut(np.array([0, 1.0]), 0.4) == 0.0


def test_published_long_context_budgets():
    """Olmo 3 report, table 11: percentages (they add up to 100.06) and billions of tokens of a 50B mix."""
    percent = ["4.55", "3.70", "9.63", "3.88", "12.2", "66.1"]
    billions = [2.27, 1.85, 4.81, 1.94, 6.08, 33.0]
    parts = apportion([Fraction(share) for share in percent], 50 * 10**9)
    assert sum(parts) == 50 * 10**9
    assert [part / 1e9 for part in parts] == pytest.approx(billions, rel=4e-3)
