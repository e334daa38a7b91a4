"""Figure 5 on the stand-in with a small network: its numbers, files, and what a kill leaves."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from influence import BinaryInceptionModel
from influence.data.files import saved_arrays
from influence.studies.poisoning import eight_bits
from scripts import fig5_exhaustive_ranking, fig5_training_attack
from scripts.fig5_training_attack import (
    Fig5Config,
    choose,
    compute,
    flips,
    interval,
    missed,
    nearest_group,
    rank_correlation,
)
from scripts.report.experiment import run
from scripts.steps import dogs_and_fish, training_attacks
from tests.networks import SIDE, network


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Settings for 9×9 crops, a network that takes them, and a folder of its own."""

    def model(train, side, weight_decay, weights, **settings):
        return BinaryInceptionModel(
            train, side, weight_decay, backbone=network("float32"), **settings
        )

    monkeypatch.setattr(dogs_and_fish, "BinaryInceptionModel", model)
    return Fig5Config(
        "stand-in",
        output_dir=str(tmp_path),
        tests=2,
        image_side=SIDE,
        steps=2,
        preselected=12,
        multi_tests=4,
        multi_steps=3,
    )


def same(one, other):
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], name)
    for name, numbers in one.metrics.items():
        if not name.startswith("seconds"):
            assert numbers == other.metrics[name], name


def attacks(config, kind="single"):
    folder = Path(config.output_dir) / fig5_training_attack.NAME
    return sorted(folder.glob(f"{kind}-*.npz"))


@pytest.mark.slow
def test_killed_damaged_and_taken_up_again(config, monkeypatch):
    undisturbed = compute(config)
    contents = {path: path.read_bytes() for path in attacks(config) + attacks(config, "multi")}
    assert len(contents) == 3
    for path in contents:
        path.unlink()

    attack, calls = training_attacks.attack, itertools.count()

    def dies(*arguments, **settings):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return attack(*arguments, **settings)

    monkeypatch.setattr(training_attacks, "attack", dies)
    with pytest.raises(KeyboardInterrupt):
        compute(config)
    assert len(attacks(config)) == 1
    same(compute(config), undisturbed)
    assert len(attacks(config)) == 2

    # Again: everything is on disk, but for a damaged file and one that was not checked.
    damaged, [unchecked] = attacks(config)[0], attacks(config, "multi")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    unit = saved_arrays(unchecked)
    del unit["confirmed"]
    np.savez(unchecked, **unit)
    begun = next(calls)
    same(compute(config), undisturbed)
    assert next(calls) - begun - 1 <= len(training_attacks.LADDER)


def test_goes_on_at_the_set_of_images_where_it_was(config, monkeypatch):
    problem, _ = fig5_training_attack.prepare(config)
    test = choose(problem, 1)[0]
    undisturbed = training_attacks.single_attack(problem, test)
    assert undisturbed["needed"] == 0
    assert undisturbed["rungs"] == len(training_attacks.LADDER)
    [path] = attacks(config)
    path.unlink()

    attack, sets = training_attacks.attack, []

    def dies(model, indices, *arguments, **settings):
        sets.append(tuple(indices))
        if len(sets) == 4:
            raise KeyboardInterrupt
        return attack(model, indices, *arguments, **settings)

    monkeypatch.setattr(training_attacks, "attack", dies)
    with pytest.raises(KeyboardInterrupt):
        training_attacks.single_attack(problem, test)
    assert attacks(config) == []
    # Another process, perhaps of a later commit, with the same data and settings.
    problem, _ = fig5_training_attack.prepare(config)
    again = training_attacks.single_attack(problem, test)
    assert sets[4:] == [tuple(again["ranking"][a:b]) for a, b in training_attacks.LADDER[3:]]
    for name, array in undisturbed.items():
        if name not in ("forward", "refit", "backward"):
            np.testing.assert_array_equal(again[name], array, name)
    assert [path.name for path in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_with_all_steps_the_files_are_those_of_earlier_versions(config):
    # Which had no pace, and no traces, and are taken up.
    problem, _ = fig5_training_attack.prepare(dataclasses.replace(config, pace=0))
    test = choose(problem, 1)[0]
    training_attacks.single_attack(problem, test)
    settings = problem.config.step_size, problem.config.steps
    path = problem.path("single", test, *settings)
    unit = saved_arrays(path)
    assert unit.pop("traces").shape == (len(training_attacks.LADDER), config.steps + 1)
    del unit["rungs"]
    np.savez(path, **unit)
    assert training_attacks.single_attack(problem, test).keys() == unit.keys()
    found = compute(problem.config)
    assert found.metrics["flips_that_pace_5_would_miss"]["ours"] == 0
    assert "flips_that_pace_5_would_miss" not in compute(config).metrics


def test_flips_that_the_pace_would_miss():
    def found(*rows):
        traces = np.full((6, 101), np.nan)
        for i, row in enumerate(rows):
            traces[i, : len(row)] = row
        return missed({"traces": traces}, step_size=0.02)

    slow = np.linspace(2, 1, 31)  # at this pace 30 more
    rest = [1] * 5
    assert found(slow, [*slow, -0.1], np.linspace(2, 1, 101)) == 0
    assert found([*slow, *rest, -0.1]) == 1
    assert found([*slow[:15], *rest, -0.1]) == 0  # not yet at the edge
    assert found([*slow, *rest, -0.1], [*slow, *rest, *rest, 0.0]) == 2
    assert missed({}, step_size=0.02) == 0


def test_rank_correlation():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1, 3, 0])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([0, 3, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3, 3, 3])) is None
    assert rank_correlation(np.array([1.0, 2]), np.array([1, 3])) is None


def test_what_is_on_disk_is_what_is_checked(config):
    results = compute(config)
    assert results.metrics["changed_after_rounding"]["ours"] == 0
    problem, _ = fig5_training_attack.prepare(config)
    test = int(results.metrics["test_indices"]["ours"][0])
    settings = problem.config.step_size, config.steps, config.pace
    path = problem.path("single", test, *settings)
    unit = saved_arrays(path)
    originals = problem.data.train.x[unit["indices"]]
    np.testing.assert_array_equal(eight_bits(unit["images"]), originals)
    unit["images"] = np.clip(unit["images"] + np.float32(1 / 127.5), -1, 1)
    found = training_attacks.check(problem, unit, problem.point(test))
    assert found["changed"] == len(originals)


@pytest.mark.slow
def test_command_line_and_pictures(config, tmp_path, capsys):
    options = ["--data", "stand-in", "--scale", "quick", "--image-side", str(SIDE)]
    options += ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path / "figures")]
    results = run("fig5_training_attack", Fig5Config, compute, fig5_training_attack.plot, options)
    names = ["fig5_training_attack.png"]
    names += [f"photos/fig5_training_attack_{name}.png" for name in ("single", "multi")]
    for name in names:
        (tmp_path / "figures" / name).unlink()
    run(
        "fig5_training_attack",
        Fig5Config,
        None,
        fig5_training_attack.plot,
        [*options, "--plot-only"],
    )
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes()[:4] == b"\x89PNG"
    assert results.metrics["inception_weights"]["ours"] == "random"
    metrics = {name: numbers["ours"] for name, numbers in results.metrics.items()}
    assert metrics["flipped_one"] <= metrics["flipped_two"] <= metrics["flipped_ten"]
    assert metrics["confirmed_from_scratch"] == metrics["flipped_ten"]
    assert metrics["multi_confirmed_from_scratch"] == metrics["multi_flipped"]

    options = ["--data", "stand-in", "--image-side", str(SIDE), "--output-dir", str(tmp_path)]
    ranking = fig5_exhaustive_ranking
    for _ in range(2):  # the second time from its file
        found = run(ranking.NAME, ranking.RankingConfig, ranking.compute, ranking.plot, options)
    assert found.arrays["places"].shape == (3, 10)
    assert found.metrics["test_indices"]["ours"][:1] == metrics["test_indices"]


def test_choices_are_nested_and_correct(config):
    problem, _ = fig5_training_attack.prepare(config)
    few, more, everybody = (choose(problem, count) for count in (2, 5, 0))
    np.testing.assert_array_equal(few, more[:2])
    np.testing.assert_array_equal(np.sort(everybody), problem.correct())
    # As many from each quarter of the margins, from the smallest to the largest.
    margins, correct = problem.margins(), problem.correct()
    assert (margins[correct] > 0).all()
    assert (np.delete(margins, correct) <= 0).all()
    edges = np.quantile(margins[correct], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(np.searchsorted(edges, margins[more]), [0, 1, 2, 3, 0])


def test_nearest_group_by_brute_force():
    random = np.random.default_rng(0)
    features, labels = random.standard_normal((20, 3)), random.integers(0, 2, 20)
    correct = np.delete(np.arange(20), [3, 8])
    totals = {}
    for centre in correct:
        others = [i for i in correct if labels[i] == labels[centre]]
        distances = np.linalg.norm(features[others] - features[centre], axis=1)
        nearest = np.array(others)[np.argsort(distances)[:4]]
        totals[np.sort(distances)[:4].sum()] = nearest
    np.testing.assert_array_equal(nearest_group(features, labels, correct, 4), totals[min(totals)])
    # A class that is too small has all of its images in the group.
    assert len(nearest_group(features, labels, correct, 100)) == np.bincount(labels[correct]).max()


def test_shares():
    needed = np.array([1, 0, 2, 10, 1])
    assert [int(flips(needed, count).sum()) for count in (1, 2, 3, 10)] == [2, 3, 3, 4]
    np.testing.assert_allclose(interval(335, 591), [0.5266, 0.6062], atol=1e-3)
