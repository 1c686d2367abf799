"""``codec study gradients``: the truth of the problems, the figures, and the command."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from cli.main import codec as codec_command
from codec.study import gradients as study
from codec.study.problems import BinaryWeights, Choice, CodebookEntries, all_problems

PROBLEMS = all_problems(seed=3, quick=True)
NAMES = [f"{problem.name}, {problem.noise}" for problem in PROBLEMS]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def figures(problem, name, value=None, samples=1, draws=4096):
    """The row of one estimator."""
    (estimator,) = [e for e in problem.estimators() if e.name == name and e.value == value]
    (row,) = study.measure(problem, estimator, problem.truth().flatten(), (samples,), draws, seed=0)
    return row


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("problem", PROBLEMS, ids=NAMES)
def test_the_truth_is_the_slope_of_the_expected_loss(problem):
    h, theta = 0.01, problem.theta
    with torch.no_grad():
        for direction in range(2):
            d = torch.randn(theta.shape, generator=seeded(direction), dtype=torch.float64)
            d /= d.norm()
            slope = (problem.expected_loss(theta + h * d) - problem.expected_loss(theta - h * d)) / (2 * h)
            truth = problem.truth()
            assert slope.item() == pytest.approx((truth * d).sum().item(), abs=1e-3 * truth.norm().item())


@pytest.mark.parametrize("problem", PROBLEMS, ids=NAMES)
def test_the_expected_loss_is_the_mean_of_drawn_losses(problem):
    shape = (20_000, 1)
    noise, theta = problem.sample_noise(shape, seeded()), problem.theta
    if isinstance(problem, CodebookEntries):
        losses = problem._error(theta, noise)
    else:
        losses = problem.sample_loss(shape, seeded(1))(problem.quantise(theta + noise))
    sums = losses.sum(-1).flatten()
    error = sums.std() / len(sums) ** 0.5
    assert abs(sums.mean() - problem.expected_loss(theta)) < 4 * error


def test_binary_weights_agree_with_enumeration():
    problem = BinaryWeights(0.5, instances=3)
    b = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    up = torch.special.ndtr(problem.theta / 0.5)
    p = torch.where(b[:, None] > 0, up, 1 - up).prod(-1)  # (64, 3)
    error = b[:, None] - problem.teacher
    losses = torch.einsum("ngi,gij,ngj->ng", error, problem.covariance, error)
    assert problem.expected_loss(problem.theta).item() == pytest.approx((p * losses).sum().item())


def test_the_truth_of_a_choice_is_its_closed_form():
    problem = Choice(instances=3)
    p = torch.softmax(problem.theta, -1)
    losses = problem.loss(torch.eye(8, dtype=torch.float64)[:, None].expand(8, 3, 8)).T
    wanted = p * (losses - (p * losses).sum(-1, keepdim=True))
    torch.testing.assert_close(problem.truth(), wanted)


# Unbiased estimators: twice the floor is the limit that the table prints; seeds are fixed.


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "uniform" not in p.noise and "codebook entries" != p.name],
                         ids=lambda p: p.name)  # fmt: skip
def test_the_score_function_is_unbiased_and_its_baseline_lowers_the_variance(problem):
    plain = figures(problem, "score function", samples=16)
    lower = figures(problem, "score function, baseline", samples=16)
    assert not plain.biased and not lower.biased
    assert lower.variance < plain.variance


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "uniform" not in p.noise], ids=lambda p: p.name)
def test_narrow_finite_differences_show_no_bias(problem):  # with uniform noise, J has kinks
    assert not figures(problem, "finite differences", 0.05).biased


def test_wide_finite_differences_vary_less():
    for problem in PROBLEMS[:-1]:
        wide, narrow = (figures(problem, "finite differences", h).variance for h in (0.25, 0.05))
        assert wide < narrow


def test_the_codebook_loss_is_unbiased():
    assert not figures(PROBLEMS[-1], "codebook loss").biased


def test_the_derivative_of_the_staircase_says_nothing():
    for problem in PROBLEMS[:-1]:
        row = figures(problem, "autograd", draws=64)
        assert row.bias == pytest.approx(1) and row.variance == 0 and row.cosine == 0


def test_gumbel_softmax_trades_bias_for_variance():
    choice = next(problem for problem in PROBLEMS if isinstance(problem, Choice))
    cold, hot = (figures(choice, "Gumbel-softmax", t) for t in (0.2, 5.0))
    assert hot.biased and hot.bias > cold.bias
    assert hot.variance < cold.variance


def test_estimators_that_are_known_to_be_biased_are_seen_to_be():
    by_name = {problem.name: problem for problem in PROBLEMS}
    assert figures(by_name["choice among 8"], "STE, softmax").biased
    assert figures(by_name["nearest codebook entry"], "STE").biased
    assert figures(by_name["binary weights"], "STE, identity").biased


def test_figures_of_a_known_distribution():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)  # length 5
    noise = torch.randn(20_000, 2, generator=seeded(), dtype=torch.float64)
    found = study.compare(1.2 * truth + 0.5 * noise, truth)
    assert found["bias"] == pytest.approx(0.2, abs=4 * found["bias_se"])
    assert found["bias_se"] == pytest.approx(0.5 / 5 / 20_000**0.5, rel=0.6)  # the jackknife of 16 groups is rough
    assert found["variance"] == pytest.approx(2 * 0.25 / 25, abs=4 * found["variance_se"])
    assert found["bias_floor"] == pytest.approx((found["variance"] / 20_000) ** 0.5)
    assert found["cosine_of_mean"] == pytest.approx(1, abs=1e-6)
    assert 0.99 < found["cosine"] < 1


def test_rows_depend_on_the_seed_alone():
    def rows(problems, seed):
        return study.study(problems, samples=(1, 4), draws=64, seed=seed)

    both, alone = rows(PROBLEMS[:2], 0), rows(PROBLEMS[1:2], 0)
    assert both[-len(alone) :] == alone
    assert rows(PROBLEMS[1:2], 1) != alone


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="too few"):
        study.study(PROBLEMS[:1], samples=(16,), draws=100)


def test_commitment_stops_the_drift_where_theory_says():
    free = study.commitment_drift(0.0)
    steps = [b - a for a, b in zip(free, free[1:])]
    assert steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0  # a constant speed, for ever
    for beta in (0.25, 1.0):
        assert study.commitment_drift(beta, steps=2000)[-1] == pytest.approx(1 + 0.5 / beta, rel=1e-3)


# --- The command ---------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(codec_command, ["study", "gradients", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_rows_conditions_and_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    result = run("--quick", "--problem", "choice", "-o", tmp_path / "new" / "folder", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("choice among 8; noise: Gumbel; true gradient of length")
    assert "Gumbel-softmax, STE       T = 0.5" in result.output and "seed 0, 512 draws" in result.output
    folder = tmp_path / "new" / "folder"
    with open(folder / "gradients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    problem = next(p for p in all_problems(quick=True) if p.name == "choice among 8")
    singles = [e for e in problem.estimators() if e.least == 1]
    assert len(rows) == len(singles) + len(problem.estimators())  # S = 1 and S = 16
    assert {row["samples"] for row in rows} == {"1", "16"}
    conditions = json.loads((folder / "gradients.json").read_text())
    assert conditions["seed"] == 0 and conditions["draws"] == 512 and conditions["quick"] is True
    for name in ("staircase", "drift", "against_temperature"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text(encoding="utf-8")
    assert not (folder / "against_noise.png").exists()  # needs several widths of the noise


def test_pictures_against_the_noise_are_drawn_where_there_are_several_widths(tmp_path):
    plots = pytest.importorskip("codec.study.plots")
    rows = study.study([BinaryWeights(sigma, instances=2) for sigma in (0.2, 0.5)], (1, 2), draws=64)
    paths = {path.name for path in plots.write_all(tmp_path, rows)}
    assert {"against_noise.svg", "against_noise.png"} <= paths
    first = (tmp_path / "against_noise.svg").read_bytes()
    plots.write_all(tmp_path, rows)
    assert (tmp_path / "against_noise.svg").read_bytes() == first


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--problem", "chess"], "codec: --problem chess: none of latents, quadratic; latents, decoder"),
        (["--draws", "100"], "--draws 100 is too few for --samples 16"),
        (["--samples", "0"], "0 is not in the range"),
        (["--samples", "two"], "'two' is not a valid integer"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(arguments, message):
    result = run("--quick", *arguments)
    assert result.exit_code != 0 and message in result.stderr


def test_without_matplotlib_pictures_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    result = run("--quick", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "codec: the study needs matplotlib: pip install 'neural-image-codec[study]'\n"
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    result = run("--quick", "-o", tmp_path / "file")
    assert result.exit_code == 1 and result.stderr.startswith("codec: ") and result.stderr.count("\n") == 1


def test_help_loads_no_torch(root):
    code = (
        "from cli.main import codec\nimport sys\n"
        "try:\n    codec.main(['study', 'gradients', '--help'], prog_name='codec')\n"
        "except SystemExit:\n    print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert result.stderr.strip() == "[]" and "--problem" in result.stdout
