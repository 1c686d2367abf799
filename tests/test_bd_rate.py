"""BD-rate: against the bjontegaard package, against curves with a known answer, and its properties."""

import math

import bjontegaard
import numpy as np
import pytest

from codec.evaluation.bd_rate import METHODS, MIN_POINTS, bd_psnr, bd_rate, interval, rate_curve, rising_points

BPP = (0.08, 0.15, 0.25, 0.4, 0.6, 0.9, 1.3, 1.9, 2.8)


def curve(rates=BPP, slope=3.2, bend=0.25, offset=36.0):
    """Points of a plausible codec: PSNR nearly linear in log2 of the rate."""
    return [(bpp, offset + slope * math.log2(bpp) + bend * math.log2(bpp) ** 2) for bpp in rates]


def cheaper(points, factor):
    return [(factor * bpp, psnr) for bpp, psnr in points]


def referee(anchor, test, method="pchip", measure=bjontegaard.bd_rate):
    """What the bjontegaard package says."""
    (anchor_bpp, anchor_psnr), (test_bpp, test_psnr) = zip(*anchor), zip(*test)
    return measure(anchor_bpp, anchor_psnr, test_bpp, test_psnr, method, require_matching_points=False, min_overlap=0)


each_method = pytest.mark.parametrize("method", METHODS)


@each_method
@pytest.mark.parametrize(
    "test",
    [
        cheaper(curve(), 0.7),
        curve(slope=3.9),
        curve(rates=BPP[2:], offset=37.5),
        curve(rates=BPP[:-3], slope=2.8, bend=0.1),
        curve(rates=(0.1, 0.5, 1.0, 3.0), offset=35.0),
    ],
)
def test_overall_agrees_with_the_bjontegaard_package(test, method):
    expected = referee(curve(), test, method)
    assert bd_rate(curve(), test, method=method).percent == pytest.approx(expected, abs=1e-6)
    assert abs(expected) > 0.1
    expected = referee(curve(), test, method, bjontegaard.bd_psnr)
    assert bd_psnr(curve(), test, method=method).db == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 0.01


@each_method
def test_overall_agrees_with_the_bjontegaard_package_on_irregular_curves(method):
    random = np.random.default_rng(5)
    for _ in range(20):
        anchor, test = (
            list(zip(np.cumsum(random.uniform(0.05, 0.5, 8)), 25 + np.cumsum(random.uniform(0.3, 3, 8))))
            for _ in range(2)
        )
        found = bd_rate(anchor, test, method=method)
        assert found.percent == pytest.approx(referee(anchor, test, method), rel=1e-6, abs=1e-6)
        found = bd_psnr(anchor, test, method=method)
        assert found.db == pytest.approx(referee(anchor, test, method, bjontegaard.bd_psnr), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.25])
@pytest.mark.parametrize("band", [None, (0.1, 0.5), (0.5, 1.5)])
def test_a_constant_factor_is_found_in_every_band(factor, band):
    found = bd_rate(curve(), cheaper(curve(), factor), band)
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-6)


@each_method
@pytest.mark.parametrize("band", [None, (0.1, 0.5), (0.5, 1.5)])
def test_a_constant_gain_is_found_in_every_band(band, method):
    better = [(bpp, psnr + 1.25) for bpp, psnr in curve()]
    found = bd_psnr(curve(), better, band, method)
    assert found.db == pytest.approx(1.25)
    assert found.bpp == pytest.approx(band or (BPP[0], BPP[-1]))
    assert found.psnr_db[0] == pytest.approx(curve(rates=found.bpp[:1])[0][1] + 1.25, abs=0.05)


def test_bd_psnr_is_cut_to_the_rates_that_both_curves_cover():
    found = bd_psnr(curve(rates=(0.3, 0.5, 0.8, 1.2)), curve(), (0.1, 0.5))
    assert found.bpp == pytest.approx((0.3, 0.5))
    assert bd_psnr(curve(), curve(), (5, 9)) is None
    assert bd_psnr(curve()[: MIN_POINTS - 1], curve()) is None
    assert bd_psnr(curve(), curve(rates=(10, 20, 30, 40))) is None


def test_exchanging_the_curves_changes_the_sign_of_the_gain():
    one, other = curve(), curve(slope=3.9, offset=35)
    assert bd_psnr(one, other).db == pytest.approx(-bd_psnr(other, one).db)


@each_method
def test_a_rate_is_found_on_irregular_curves(method):
    random = np.random.default_rng(6)
    for _ in range(50):
        points = list(zip(np.cumsum(random.uniform(0.01, 0.5, 8)), 25 + np.cumsum(random.uniform(0.1, 3, 8))))
        found = rate_curve(points, method)
        for bpp in (*random.uniform(points[0][0], points[-1][0], 5), *(bpp for bpp, _ in points)):
            assert found(found.where(math.log10(bpp))) == pytest.approx(math.log10(bpp))
        assert found.where(-9) == found.low and found.where(9) == found.high


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="'cubic' is none of pchip, akima"):
        bd_rate(curve(), curve(), method="cubic")


def test_an_interval_leaves_out_five_of_a_hundred():
    figures = list(np.random.default_rng(0).permutation(2001) / 2000)
    assert interval(figures) == pytest.approx((0.025, 0.975))
    assert interval([None] * 5 + [3.0] * 95) == (3.0, 3.0)
    assert interval([None] * 6 + [3.0] * 94) is None
    assert interval([]) is None


def test_exchanging_the_curves_inverts_the_ratio():
    one, other = curve(), curve(slope=3.9, offset=35)
    there, back = bd_rate(one, other).percent, bd_rate(other, one).percent
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_a_band_is_where_the_rate_of_the_test_codec_lies_within_it():
    found = bd_rate(curve(), curve(offset=37), (0.25, 0.9))
    assert found.bpp == pytest.approx((0.25, 0.9))
    assert found.psnr_db == pytest.approx((curve(offset=37)[2][1], curve(offset=37)[5][1]))

    between_points = bd_rate(curve(), curve(offset=37), (0.3, 0.7))
    assert between_points.bpp == pytest.approx((0.3, 0.7))


def test_a_band_is_cut_where_either_curve_ends():
    test = curve(rates=(0.2, 0.3, 0.4, 0.6, 1.0))
    found = bd_rate(curve(), test, (0.1, 0.5))
    assert found.psnr_db[0] == test[0][1] and found.bpp == pytest.approx((0.2, 0.5))

    anchor = curve(rates=(0.3, 0.5, 0.8, 1.2))
    found = bd_rate(anchor, curve(), (0.1, 0.5))
    assert found.psnr_db[0] == anchor[0][1]
    # Both curves have one shape, so at the anchor's first PSNR ours has the anchor's first rate, within the
    # difference of two interpolations.
    assert found.bpp == pytest.approx((0.3, 0.5), rel=0.01)


def test_bands_add_up_to_the_whole():
    anchor, test = curve(), curve(slope=3.9, offset=36.5)
    overall = bd_rate(anchor, test)
    parts = [bd_rate(anchor, test, band) for band in ((0.01, 0.5), (0.5, 1.5), (1.5, 10))]
    log_ratios = [
        math.log10(1 + part.percent / 100) * (part.psnr_db[1] - part.psnr_db[0]) for part in (overall, *parts)
    ]
    assert sum(log_ratios[1:]) == pytest.approx(log_ratios[0])
    assert [part.psnr_db[0] for part in parts[1:]] == pytest.approx([part.psnr_db[1] for part in parts[:-1]])


def test_low_and_high_rates_are_told_apart():
    # 40 % fewer bits at low rates, as many as the anchor at high ones.
    test = [(bpp * (0.6 if bpp < 0.8 else 1.0), psnr) for bpp, psnr in curve()]
    low, high = bd_rate(curve(), test, (0.05, 0.3)), bd_rate(curve(), test, (0.95, 2.5))
    assert low.percent == pytest.approx(-40, abs=0.5)
    assert high.percent == pytest.approx(0, abs=1.0)
    assert low.percent < bd_rate(curve(), test).percent < high.percent


def test_the_order_of_points_does_not_matter():
    assert bd_rate(curve()[::-1], curve(slope=3.9)[::-1]) == bd_rate(curve(), curve(slope=3.9))


def test_points_that_cost_more_without_being_better_are_left_out():
    test = curve(slope=3.9)
    wasteful = (1.1, test[4][1] - 0.5)
    same_psnr = (test[-1][0] + 1, test[-1][1])
    same_rate = (test[2][0], test[2][1] - 2)
    assert rising_points([*test, wasteful, same_psnr, same_rate]) == test
    assert bd_rate(curve(), [*test, wasteful, same_psnr, same_rate]) == bd_rate(curve(), test)


def test_curves_that_cannot_be_compared_give_none():
    too_few = curve()[: MIN_POINTS - 1]
    assert bd_rate(too_few, curve()) is None
    assert bd_rate(curve(), too_few) is None
    assert bd_rate(curve(), []) is None
    assert bd_rate(curve(), [(bpp, psnr + 40) for bpp, psnr in curve()]) is None  # no PSNR in common
    assert bd_rate(curve(), curve(), (5, 9)) is None  # no rate of ours within the band
    assert bd_rate(curve(), [(1.0, 99.99)] * 9) is None  # a lossless picture: one usable point
