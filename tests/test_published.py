"""The published curves: whole, sourced, and consistent with what is known of these codecs."""

import pytest

from codec.errors import CodecError
from codec.evaluation import published
from codec.evaluation.bd_rate import bd_rate

CURVES = {curve.name: curve for curve in published.load("kodak")}


def points(name):
    return list(zip(CURVES[name].bpp, CURVES[name].psnr, strict=True))


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_every_curve_rises_and_says_where_it_is_from(curve):
    assert len(curve.bpp) == len(curve.psnr) >= 4  # what a BD-rate needs
    for values in (curve.bpp, curve.psnr, curve.ms_ssim or ()):
        assert list(values) == sorted(set(values))
    assert 0 < curve.bpp[0] and curve.bpp[-1] < 6 and 20 < curve.psnr[0] and curve.psnr[-1] < 50
    if curve.ms_ssim is not None:
        assert len(curve.ms_ssim) == len(curve.bpp) and 0.7 < curve.ms_ssim[0] and curve.ms_ssim[-1] < 1
    assert curve.title and curve.notes
    assert curve.source_url.startswith("https://github.com/") and "/blob/" in curve.source_url
    assert curve.paper is None or curve.paper_url.startswith("https://arxiv.org/abs/")


def test_files_are_called_after_their_curves_and_the_readme_lists_them_all():
    files = {file.name for file in (published.CURVES / "kodak").iterdir()}
    assert files == {f"{name}.json" for name in CURVES}
    readme = (published.CURVES / "README.md").read_text(encoding="utf-8")
    listed = [line for line in readme.splitlines() if line.startswith("| `")]
    assert {line.split("`")[1] for line in listed} == files
    for curve in CURVES.values():
        (line,) = (line for line in listed if line.startswith(f"| `{curve.name}.json`"))
        assert curve.title in line and curve.source_url in line
        assert curve.paper is None or curve.paper_url in line


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        # Against VTM, as the literature has it: a curve that was mixed up with another would stand out.
        ("hpcm-large", -20), ("elic", -7), ("cheng2020-anchor", 4), ("evc-ss", 7), ("av1", 16),
        ("mbt2018-mean", 21), ("bmshj2018-hyperprior", 30), ("bmshj2018-factorized", 68),
    ],
)  # fmt: skip
def test_bd_rates_between_them_are_those_of_the_literature(name, percent):
    assert bd_rate(points("vtm"), points(name)).percent == pytest.approx(percent, abs=1)


def test_kodak_is_recognised_by_all_its_names_and_nothing_less():
    names = [f"kodim{number:02d}.png" for number in range(1, 25)]
    assert published.dataset_of(names) == "kodak"
    assert published.dataset_of([f"pictures/{name}" for name in reversed(names)]) == "kodak"
    assert published.dataset_of(names[:23]) is None
    assert published.dataset_of([*names, "other.png"]) is None
    assert published.dataset_of([*names[:23], names[0]]) is None
    assert published.dataset_of([]) is None


def test_a_data_set_without_curves_is_refused():
    with pytest.raises(CodecError, match="no published curves for 'clic'; there are some for kodak"):
        published.load("clic")
