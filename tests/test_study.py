"""``codec study gradients``: the truth of the problems, the figures, and the command."""

import csv
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from cli.main import codec as codec_command
from codec.study import gradients as study
from codec.study.problems import BinaryNeurons, BinaryWeights, Choice, CodebookEntries, Latents, Quadratic, all_problems

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


# Unbiased estimators: intervals that hold zero; seeds are fixed.


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "uniform" not in p.noise and "codebook entries" != p.name],
                         ids=lambda p: p.name)  # fmt: skip
def test_the_score_function_is_unbiased_and_its_baseline_lowers_the_variance(problem):
    plain = figures(problem, "score function", samples=16)
    lower = figures(problem, "score function, baseline", samples=16)
    assert not plain.biased and not lower.biased
    assert lower.variance < plain.variance


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "uniform" not in p.noise], ids=lambda p: p.name)
def test_narrow_finite_differences_show_no_bias(problem):  # with uniform noise, J has kinks
    assert not figures(problem, "finite differences", 0.05, draws=16384).biased


@pytest.mark.slow
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
    assert figures(by_name["nearest codebook entry"], "rotation trick").biased
    assert figures(by_name["codebook entries"], "SimVQ").biased
    assert figures(by_name["binary neurons"], "STE, identity").biased


def test_reinmax_is_less_biased_than_the_straight_through_estimator():
    for problem, plain in ((Choice(instances=8), "STE, softmax"), (BinaryNeurons(instances=8), "STE, sigmoid")):
        first, second = figures(problem, plain), figures(problem, "ReinMax", 1.0)
        assert second.bias_high < first.bias_low


def test_sampling_neurons_are_less_biased_than_the_deterministic_one():
    problem = BinaryNeurons(instances=8)
    sampled, fixed = figures(problem, "STE, sigmoid"), figures(problem, "STE, deterministic")
    assert sampled.bias_high < fixed.bias_low and fixed.variance < 1e-20


def test_stochastic_rounding_draws_what_uniform_noise_makes_of_rounding():
    """Where the noise is uniform, stochastic rounding of the parameter has the expected loss of the problem."""
    problem = Latents(Quadratic, instances=4)
    (estimator,) = [e for e in problem.estimators() if e.name == "stochastic rounding"]
    noise = problem.sample_noise((20_000, 1), seeded())
    losses = estimator.losses(problem.loss, problem.theta.expand_as(noise), noise, seeded(1)).sum(-1).flatten()
    assert abs(losses.mean() - problem.expected_loss(problem.theta)) < 4 * losses.std() / len(losses) ** 0.5
    # ... and the estimate is that of rounding the noisy parameter straight through, in distribution.
    ours, plain = figures(problem, "stochastic rounding"), figures(problem, "ste")
    assert max(ours.bias_low, plain.bias_low) < min(ours.bias_high, plain.bias_high)


def test_the_gradient_of_simvq_is_that_of_its_entries_mixed_by_the_basis():
    problem = CodebookEntries(codes=4)
    data = problem.sample_noise((3, 1), seeded())
    theta = problem.theta.expand(3, 1, 1, -1).clone().requires_grad_()
    (estimator,) = [e for e in problem.estimators() if e.name == "SimVQ"]
    (found,) = torch.autograd.grad(estimator.losses(None, theta, data, None).sum(), theta)
    basis = problem.theta.view(4, 2)
    for draw in range(3):
        weight = torch.eye(2, dtype=torch.float64, requires_grad=True)  # one step of W, and what it does to the entries
        entries = (basis @ weight.T).view(1, -1)
        (grad,) = torch.autograd.grad(problem._error(entries, data[draw, 0]).sum(), weight)
        moved = (basis @ grad.T).flatten() * 4 / (basis @ basis.T).trace()
        torch.testing.assert_close(found[draw, 0, 0], moved)


def test_binary_neurons_agree_with_a_sum_over_their_states():
    problem = BinaryNeurons(instances=2)
    p, total = torch.sigmoid(problem.theta), 0.0
    for state in range(64):
        b = torch.tensor([[state >> i & 1 for i in range(6)]] * 2, dtype=torch.float64)
        total = total + ((p**b * (1 - p) ** (1 - b)).prod(-1) * problem.loss(b)).sum()
    assert problem.expected_loss(problem.theta).item() == pytest.approx(total.item())


def test_figures_of_a_known_distribution():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)  # length 5
    noise = torch.randn(20_000, 2, generator=seeded(), dtype=torch.float64)
    found = study.compare(1.2 * truth + 0.5 * noise, truth)
    assert found["bias_low"] < 0.2 < found["bias_high"]
    # Along the truth: two standard errors of 0.5 / 5 / sqrt(20000) to either side.
    assert found["bias_high"] - found["bias_low"] == pytest.approx(4 * 0.1 / 20_000**0.5, rel=0.05)
    assert found["variance"] == pytest.approx(2 * 0.25 / 25, abs=4 * found["variance_se"])
    assert found["bias_floor"] == pytest.approx((found["variance"] / 20_000) ** 0.5)
    assert found["cosine_of_mean"] == pytest.approx(1, abs=1e-6)
    assert 0.99 < found["cosine"] < 1


@pytest.mark.parametrize("bias", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("dimensions", [2, 40])
def test_the_interval_of_the_bias_covers_and_its_noise_is_taken_out(bias, dimensions):
    """400 studies of 100 estimates each, whose noise alone is 0.1 long, or 0.45."""
    truth = torch.zeros(dimensions, dtype=torch.float64)
    truth[0] = 1.0
    spread = torch.linspace(0.2, 1.2, dimensions, dtype=torch.float64)
    generator, found = seeded(), []
    for _ in range(400):
        noise = spread * torch.randn(100, dimensions, generator=generator, dtype=torch.float64)
        estimates = truth + noise
        estimates[:, -1] += bias
        found.append(study.compare(estimates, truth))
    assert min(one["bias_high"] for one in found) > 0.3 * found[0]["bias_floor"]  # no limit below what can be told
    covered = sum(one["bias_low"] <= bias <= one["bias_high"] for one in found) / len(found)
    assert covered >= 0.93
    squares = torch.tensor([one["bias"] ** 2 for one in found])
    plain = squares.mean() + found[0]["bias_floor"] ** 2  # what the distance of the mean alone would say, roughly
    assert abs(squares.mean() - bias**2) < abs(plain - bias**2)
    if bias == 0.3:
        assert squares.mean().item() == pytest.approx(bias**2, abs=0.02)


def test_the_cosine_of_the_mean_has_its_noise_taken_out():
    truth = torch.zeros(50, dtype=torch.float64)
    truth[0] = 2.0
    noise = 3 * torch.randn(400, 50, generator=seeded(), dtype=torch.float64)  # of the mean: 1.06 long
    found = study.compare(torch.cat([truth + noise, truth - noise]) + 0.0, truth)
    assert found["cosine_of_mean"] == 1  # the mean is exact, and what is taken out can only help
    draws = [3 * torch.randn(400, 50, generator=seeded(seed), dtype=torch.float64) for seed in range(20)]
    cosines = [study.compare(truth + noise, truth)["cosine_of_mean"] for noise in draws]
    assert sum(cosines) / 20 > 0.96
    assert study.compare(-truth.expand(20, 50), truth)["cosine_of_mean"] == -1


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
    steps = [b - a for a, b in itertools.pairwise(free)]
    assert steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0  # a constant speed, for ever
    for beta in (0.25, 1.0):
        assert study.commitment_drift(beta, steps=2000)[-1] == pytest.approx(1 + 0.5 / beta, rel=1e-3)


# The command


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
    assert (
        result.stderr
        == 'codec: study gradients needs Matplotlib: pip install ".[study]" in the folder of the sources\n'
    )
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
