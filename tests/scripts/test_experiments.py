"""The experiments' contract: options, files, metric names, stand-ins that are never silent."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from influence import AdamState
from scripts import (
    fig1_components,
    fig2_leave_one_out,
    fig2_long_retraining,
    fig2_training,
    fig4_rbf_vs_inception,
    fig5_training_attack,
    hospital_readmission,
    reproduce,
)
from scripts.loaders.registry import Provenance
from scripts.report.claims import CLAIMS
from scripts.report.comparison import comparison, show
from scripts.report.experiment import Config, Results, run, save_figure
from tests.checkout import checkout, git

mpl.use("Agg")
PNG = b"\x89PNG"
METRICS = {
    "fig1_components": {"harmful_same_class", "no_train_loss", "no_hessian", "neither"},
    "fig2_leave_one_out": {
        "exact_pearson_r",
        "exact_slope",
        "lissa_pearson_r",
        "lissa_slope",
        "prediction_min",
        "prediction_max",
        "max_refit_gradient_norm",
    },
    "fig3_smooth_hinge": {
        "pearson_r_t0",
        "pearson_r_t0.001",
        "pearson_r_t0.1",
        "slope_t0.001",
        "slope_t0.1",
    },
    "fig4_rbf_vs_inception": {
        "test_index",
        "inception_test_accuracy",
        "distance_correlation_rbf",
        "distance_correlation_inception",
        "dogs_among_top_50",
    },
    "fig5_training_attack": {
        "tests",
        "correct",
        "flipped_one",
        "flipped_two",
        "flipped_ten",
        "changed_after_rounding",
        "confirmed_from_scratch",
        "multi_tests",
        "multi_flipped",
    },
    "fig6_label_fixing": {
        "train_documents",
        "test_documents",
        "clean_accuracy",
        "flipped_accuracy",
        *(f"fixed_{method}" for method in ("influence", "influence_2017", "loss", "random")),
        *(f"accuracy_{method}" for method in ("influence", "influence_2017", "loss", "random")),
    },
    "hospital_readmission": {
        "rows",
        "features",
        "children_train_before",
        "children_train_after",
        "children_test",
        "top_indices",
        "top_influences",
        "flips_at_optimum",
        "flips_early_stopped",
        "coefficients_larger_than_child",
        "gradient_norm",
    },
}


REPRODUCE = [sys.executable, "-m", "scripts.reproduce"]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
# Whatever a run prints begins like one of these, or is a line of a table.
PRINTED = (
    "===",
    "***",
    "Wrote ",
    "Everything else: ",
    "All in ",
    "Every number: ",
    "The figures, ",
)


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    """`python -m scripts.reproduce` as a newcomer without data runs it, at the smallest scale."""
    folder = checkout(tmp_path_factory.mktemp("reproduction") / "project")
    command = [*REPRODUCE, "--data", "stand-in", "--scale", "quick"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_reproduce_succeeds_and_says_stand_in(reproduction):
    _, finished = reproduction
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("*** STAND-IN DATA") == len(reproduce.EXPERIMENTS)


@pytest.mark.slow
def test_a_run_prints_what_the_project_says_and_nothing_else(reproduction):
    _, finished = reproduction
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    printed = [line for line in lines if line.startswith(PRINTED) or not line]
    tables = [table for name in METRICS for table in 2 * [comparison_of(reproduction[0], name)]]
    said = sorted([*printed, *(line for table in tables for line in table.splitlines())])
    assert said == sorted(lines)


def comparison_of(folder, name):
    """The table of an experiment's JSON."""
    return comparison(name, json.loads((folder / "output" / f"{name}.json").read_text()))


@pytest.mark.slow
@needs_git
def test_a_run_leaves_the_checkout_clean_and_the_docs_true(reproduction):
    folder, _ = reproduction
    assert git(folder, "status", "--porcelain") == ""
    tests = [sys.executable, "-m", "pytest", "-q", "tests/test_docs.py"]
    tests += ["-p", "no:cacheprovider", "-k", "published or files"]
    finished = subprocess.run(tests, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert " passed" in finished.stdout


@pytest.mark.slow
@needs_git
def test_a_run_killed_half_way_leaves_the_checkout_clean(tmp_path):
    folder = checkout(tmp_path)
    command = [*REPRODUCE, "--data", "stand-in", "--scale", "quick"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)
    try:
        while not list(folder.glob("figures/*.png")):
            assert run.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert git(folder, "status", "--porcelain") == ""
    assert not (folder / "figures" / "results.md").exists()


@pytest.mark.slow
@needs_git
def test_a_run_says_which_code_it_is_of(reproduction):
    folder, _ = reproduction
    for name in METRICS:
        record = json.loads((folder / "output" / f"{name}.json").read_text())
        assert record["commit"] == git(folder, "rev-parse", "HEAD").strip()
        assert record["dirty"] is False
        assert record["drawn_by"] == {"commit": record["commit"], "dirty": False}
        assert record["cores"] == os.cpu_count()


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_json_is_the_contract(reproduction, name):
    record = json.loads((reproduction[0] / "output" / f"{name}.json").read_text())
    assert record["experiment"] == name
    assert record["data"] == "stand-in"
    assert record["scale"] == "quick"
    assert record["seconds"] > 0
    assert record["config"]
    assert record["versions"].keys() >= {"python", "tensorflow", "numpy"}
    assert all(len(digest) == 64 for digest in record["data_sha256"].values())
    assert record["command"] == f"python -m scripts.{name} --data stand-in --scale quick"
    assert record["metrics"].keys() >= METRICS[name]
    assert all(numbers.keys() == {"paper", "ours"} for numbers in record["metrics"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_figures_are_written_and_recorded(reproduction, name):
    folder = reproduction[0]
    assert (folder / "figures" / f"{name}.png").read_bytes()[:4] == PNG
    drawn = json.loads((folder / "output" / f"{name}.json").read_text())["figures"]
    assert name in drawn
    for figure, digest in drawn.items():
        content = (folder / "figures" / f"{figure}.png").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_claims_are_of_the_numbers_and_figures_that_there_are(reproduction, name):
    record = json.loads((reproduction[0] / "output" / f"{name}.json").read_text())
    claim = CLAIMS[name]
    papers = {metric for metric, value in record["metrics"].items() if value["paper"] is not None}
    assert claim.numbers.keys() >= papers
    unknown = claim.numbers.keys() - record["metrics"].keys()
    # The network, which a quick run leaves out; tests/test_gallery.py has its names.
    assert all(metric.startswith("cnn_") for metric in unknown)
    plots = {figure for figure in record["figures"] if not figure.startswith("photos/")}
    assert claim.figures.keys() >= plots


@pytest.mark.slow
def test_gallery_shows_every_plot_and_no_photograph(reproduction):
    folder, finished = reproduction
    page = (folder / "figures" / "index.html").read_text()
    assert "index.html" in finished.stdout
    records = [json.loads((folder / "output" / f"{name}.json").read_text()) for name in METRICS]
    drawn = [figure for record in records for figure in record["figures"]]
    photographs = [figure for figure in drawn if figure.startswith("photos/")]
    assert photographs
    assert page.count("<img") == len(drawn) - len(photographs)
    assert page.count("STAND-IN DATA") == len(reproduce.EXPERIMENTS)


@pytest.mark.slow
def test_results_table_has_every_number_and_the_warning(reproduction):
    folder, finished = reproduction
    table = (folder / "figures" / "results.md").read_text()
    assert "results.md" in finished.stdout
    assert table.count("On STAND-IN data") == len(reproduce.EXPERIMENTS)
    for name in METRICS:
        record = json.loads((folder / "output" / f"{name}.json").read_text())
        for metric, numbers in record["metrics"].items():
            row = f"| `{metric}` | {show(numbers['paper'])} | {show(numbers['ours'])} |"
            assert row in table


@pytest.mark.slow
def test_nothing_half_written_is_left(reproduction):
    names = {path.name for path in (reproduction[0] / "output").iterdir()}
    expected = {f"{name}.{ending}" for name in METRICS for ending in ("json", "npz")}
    # Kept for the next run: the lemmas, the features, the attacked images.
    assert names == expected | {"documents", "dogfish", "fig5_training_attack"}


@pytest.mark.slow
def test_linear_panels_agree_with_refitting_on_the_stand_in(reproduction):
    path = reproduction[0] / "output" / "fig2_leave_one_out.json"
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["exact_pearson_r"]["ours"] > 0.98
    assert metrics["max_refit_gradient_norm"]["ours"] <= 1e-6


def titles_of_network(results):
    """Of the columns of the network's figure."""
    figure = fig2_leave_one_out.plot_network(results)
    plt.close(figure)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[: len(titles) // 2] == titles[len(titles) // 2 :]
    return titles[: len(titles) // 2]


@pytest.mark.slow
def test_the_network_of_figure_2_and_its_long_retraining(tmp_path, capsys):
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    options = ["--data", "stand-in", "--scale", "quick", *folders]
    fig2, long = fig2_leave_one_out, fig2_long_retraining
    linear = ["--points", "3", "--lissa-repeats", "2"]
    # The indefinite solve is expected, and no warning: those are errors here.
    results = run(
        fig2.NAME, fig2.Fig2Config, fig2.compute, fig2.plot, [*options, *linear, "--network"]
    )
    metrics = results.metrics
    assert "Hessian + 0.01 is not positive definite" in capsys.readouterr().out
    assert metrics["cnn_panel"]["ours"] == "gauss_newton"
    assert metrics["cnn_smallest_eigenvalue"]["ours"] < 0
    chosen = metrics["cnn_chosen_damping"]["ours"]
    assert chosen == pytest.approx(-2 * metrics["cnn_smallest_eigenvalue"]["ours"])
    assert metrics.keys() >= {"cnn_pearson_r", "cnn_slope", "cnn_test_accuracy"}
    assert metrics["cnn_scale"]["ours"] == "quick"
    assert metrics["cnn_training_images"]["ours"] == 100
    for name in ("fig2_leave_one_out", "fig2_leave_one_out_cnn"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == PNG
    assert not (tmp_path / f"{fig2.NAME}.cnn").exists()
    # A damping that is the paper's own is drawn once.
    assert len(titles_of_network(results)) == 6
    metrics["cnn_chosen_damping"] = metrics["cnn_damping"]
    once = ["Hessian + 0.01", "Gauss-Newton + 0.01", "EK-FAC + 0.01", "Newton step + 0.01"]
    assert titles_of_network(results) == once

    metrics = run(long.NAME, long.LongConfig, long.compute, long.plot, options).metrics
    steps, flow = (np.array(metrics[name]["ours"]) for name in ("steps", "flow"))
    assert len(steps) == len(flow) == len(metrics["predicted"]["ours"]) == 2
    assert (steps != 0).all()
    assert (tmp_path / f"{long.NAME}.png").read_bytes()[:4] == PNG


@pytest.mark.slow
def test_the_training_of_figure_2_is_traced_and_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fig2_training, "agreement_after_flow", lambda *_: np.array([-1.0, 0.5, 1, 1, np.nan])
    )
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    options = ["--data", "stand-in", "--scale", "quick", *folders]
    arguments = (
        fig2_training.NAME, fig2_training.TrainingConfig, fig2_training.compute, fig2_training.plot,
    )  # fmt: skip
    first = run(*arguments, options)
    assert first.arrays["trace"][:, 0].tolist() == [10, 20, 30, 40]
    assert first.metrics["gauss_newton_slope"]["ours"] == [None, None]
    assert (np.diff(first.arrays["trace"][:, 1]) < 0).all()  # the objective falls
    state = AdamState.load(tmp_path / "all_cnn_c_40.npz")
    assert state.step == 40
    rows = (tmp_path / f"{fig2_training.NAME}.csv").read_text().splitlines()
    assert rows[0] == "step,objective,gradient_norm,train_accuracy,test_accuracy"
    assert [row.split(",")[0] for row in rows[1:]] == ["10", "20", "30", "40"]
    # Killed after the second state, it goes on from there, to the same bits.
    for step in (30, 40):
        (tmp_path / "fig2_training.states" / f"step_{step:06d}.npz").unlink()
    again = run(*arguments, options)
    np.testing.assert_array_equal(again.arrays["trace"], first.arrays["trace"])
    np.testing.assert_array_equal(
        AdamState.load(tmp_path / "all_cnn_c_40.npz").parameters, state.parameters
    )


@pytest.mark.slow
def test_the_rare_group_is_found_on_the_stand_in(reproduction):
    path = reproduction[0] / "output" / "hospital_readmission.json"
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["features"]["ours"] == 127
    # As in the paper: 3 of 24 children, then 3 of 4, who stand above all others by far; the one who
    # was not readmitted helps, and the others harm.
    assert metrics["children_train_before"]["ours"][0] == 3
    assert metrics["children_train_after"]["ours"] == [3, 4]
    for fit in ("", "_early_stopped"):
        assert min(metrics[f"children_over_next{fit}"]["ours"]) > 10
        assert sorted(np.sign(metrics[f"top_influences{fit}"]["ours"][:4])) == [-1, -1, -1, 1]


@pytest.mark.slow
def test_flips_are_found_on_the_stand_in(reproduction):
    path = reproduction[0] / "output" / "fig6_label_fixing.json"
    metrics = {
        name: value["ours"] for name, value in json.loads(path.read_text())["metrics"].items()
    }
    # In the paper's order, two repeats of the forty on the whole.
    for score in ("influence", "influence_2017"):
        assert np.sum(metrics[f"fixed_{score}"]) > np.sum(metrics["fixed_loss"])
        assert np.sum(metrics[f"accuracy_{score}"]) > np.sum(metrics["accuracy_random"])
    assert metrics["fixed_loss"][-1] > 2 * metrics["fixed_random"][-1]
    assert metrics["accuracy_influence"][-1] > metrics["flipped_accuracy"]


@pytest.mark.slow
def test_attacks_change_nothing_that_eight_bits_can_see(reproduction):
    path = reproduction[0] / "output" / "fig5_training_attack.json"
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["changed_after_rounding"]["ours"] == 0
    assert metrics["confirmed_from_scratch"]["ours"] == metrics["flipped_ten"]["ours"]
    assert metrics["multi_loss_after"]["ours"] > metrics["multi_loss_before"]["ours"]


@pytest.mark.slow
def test_plot_only_draws_the_same_figure(reproduction, tmp_path):
    folder = reproduction[0]
    run(
        fig1_components.NAME,
        fig1_components.Fig1Config,
        None,
        fig1_components.plot,
        ["--plot-only", "--output-dir", str(folder / "output"), "--figures-dir", str(tmp_path)],
    )
    drawn = plt.imread(tmp_path / "fig1_components.png")
    np.testing.assert_array_equal(drawn, plt.imread(folder / "figures" / "fig1_components.png"))


def test_plot_only_without_results_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="run without --plot-only first"):
        run("fig1_components", Config, None, None, ["--plot-only", "--output-dir", str(tmp_path)])


def test_defaults_are_the_papers():
    fig2, fig1 = fig2_leave_one_out.Fig2Config(), fig1_components.Fig1Config()
    assert (fig2.points, fig2.test_index, fig2.weight_decay) == (500, 8, 0.01)
    assert (fig2.lissa_repeats, fig2.lissa_depth, fig2.lissa_scale) == (10, 5000, 25.0)
    assert fig2.network
    assert (fig2.cnn_test_index, fig2.cnn_points, fig2.cnn_images) == (6558, 100, 5500)
    assert (fig2.cnn_weight_decay, fig2.cnn_damping) == (0.001, 0.01)
    assert fig2.PAPER == {"cnn_steps": 500_000, "cnn_rate": 1e-4}
    assert (fig1.test_index, fig1.weight_decay) == (30, 0.01)
    assert hospital_readmission.HospitalConfig().weight_decay == 1e-4
    fig4 = fig4_rbf_vs_inception.Fig4Config()
    assert (fig4.test_index, fig4.image_side, fig4.gamma) == (462, 299, 0.05)
    assert (fig4.weight_decay, fig4.temperature) == (0.001, 0.001)
    fig5 = fig5_training_attack.Fig5Config()
    assert (fig5.image_side, fig5.weight_decay) == (299, 0.001)
    assert (fig5.step_size, fig5.steps, fig5.multi_step_size) == (0.02, 100, 0.005)
    assert fig5.multi_tests == 30
    assert fig5.PAPER == {"tests": 0, "pace": 0, "multi_steps": 2000}


@dataclasses.dataclass(frozen=True)
class ToyConfig(Config):
    """A toy.

    Attributes:
        size: a number.
        slow: a switch.
    """

    size: int = 3
    slow: bool = False

    QUICK = {"size": 1}
    PAPER = {"size": 9}


def toy(config):
    results = Results(Provenance("paper", {}), {"size": np.array(config.size)})
    results.add("size", config.size, 3)
    return results


@pytest.mark.parametrize(
    ("options", "size"),
    [([], 3), (["--size", "7"], 7), (["--scale", "quick"], 1), (["--scale", "paper"], 9),
     (["--scale", "quick", "--size", "5"], 5)],
)  # fmt: skip
def test_options_come_from_the_config(tmp_path, options, size):
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    results = run("toy", ToyConfig, toy, lambda results: {}, options + folders)
    assert results.metrics["size"]["ours"] == size
    assert json.loads((tmp_path / "toy.json").read_text())["config"]["size"] == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ""),
        (["--data", "auto", "--scale", "paper"], " --scale paper"),
        (["--size", "7", "--no-slow"], " --size 7 --no-slow"),
        (["--size=3", "--slow", "--data=real"], " --data real --size 3 --slow"),
    ],
)
def test_command_is_the_options_that_were_given(tmp_path, options, words):
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    run("toy", ToyConfig, toy, lambda results: {}, folders + options)
    record = json.loads((tmp_path / "toy.json").read_text())
    assert record["command"] == f"python -m scripts.toy{words}"


def test_drawing_again_keeps_the_record_and_renews_the_figures(tmp_path):
    def plot(results):
        return {"toy": plt.figure(figsize=(1, 1))}

    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    run("toy", ToyConfig, toy, lambda results: {}, [*folders, "--size", "7"])
    before = json.loads((tmp_path / "toy.json").read_text())
    assert before["figures"] == {}
    run("toy", ToyConfig, None, plot, [*folders, "--plot-only"])
    after = json.loads((tmp_path / "toy.json").read_text())
    digest = hashlib.sha256((tmp_path / "toy.png").read_bytes()).hexdigest()
    assert after == before | {"figures": {"toy": digest}}


def test_the_warning_stands_above_a_legend_outside(tmp_path):
    figure, axis = plt.subplots(layout="constrained")
    axis.plot([0, 1], label="line")
    figure.legend(loc="outside upper center", frameon=False)
    save_figure(figure, tmp_path / "figure.png", Provenance("stand-in", {}))
    red, green, _ = np.moveaxis(plt.imread(tmp_path / "figure.png")[..., :3], 2, 0)
    words = np.flatnonzero(((red > 0.8) & (green < 0.3)).any(axis=1))
    blue_line_or_letters = np.flatnonzero((red < 0.3).any(axis=1))
    assert words.max() < blue_line_or_letters.min()


@pytest.mark.parametrize("place", ["upper", "lower"])
def test_a_legend_outside_keeps_its_room(tmp_path, place):
    figure, axis = plt.subplots(layout="constrained")
    axis.plot([0, 1], label="line")
    axis.set_xlabel("x")
    figure.legend(loc=f"outside {place} center")
    save_figure(figure, tmp_path / "figure.png", Provenance("stand-in", {}))
    [legend] = figure.legends
    assert not legend.get_window_extent().overlaps(axis.get_tightbbox())


def test_a_failed_experiment_does_not_stop_the_others(tmp_path, monkeypatch):
    calls = []
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]

    def fails_at_first(command, check):
        name = command[2].removeprefix("scripts.")
        calls.append(name)
        # Of an earlier run, where this one fails.
        run(name, ToyConfig, toy, lambda results: {}, folders)
        return subprocess.CompletedProcess(command, 1 if "fig1" in name else 0)

    monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=fails_at_first))
    assert reproduce.main(folders) == 1
    assert calls == list(reproduce.EXPERIMENTS)
    table, page = ((tmp_path / name).read_text() for name in ("results.md", "index.html"))
    assert "**Figure 1: components of influence failed.**" in table
    assert "scripts.fig1_components" not in table
    assert "scripts.fig3_smooth_hinge" in table
    assert page.count("FAILED in this run") == 1
    assert "scripts.fig1_components" not in page
    assert "scripts.fig3_smooth_hinge" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0.632151, "0.63215"),
        (0.999991, "0.99999"),
        (12, "12"),
        ([3, 0.25], "[3, 0.25]"),
        ([1] * 9, "[" + "1, " * 8 + "…]"),
        (1e-9, "1e-09"),
    ],
)
def test_numbers_in_tables(value, text):
    assert show(value) == text
