"""The benchmark's logistic regression: as published, and at the minimum of its objective."""

from __future__ import annotations

import warnings

import numpy as np

from influence import (
    Dataset,
    Exact,
    LogisticRegression,
    choose_damping,
    leave_one_out,
    tracin,
)
from influence.objective.retraining import Refits, retrained
from scripts.steps.datamodeling import SEED, Benchmark, mean_correlation, single
from scripts.steps.processes import processes
from scripts.steps.sgd import Sgd, SgdRecipe

# Passes over the points; there is a checkpoint after each fifth of them for TracIn.
_PASSES = 20
DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)
# λ at the minimum, and what begins the names of its metrics.
_WEAK = {0.01: "lr", 0.001: "lr_weak"}


def add_regression(benchmark: Benchmark) -> None:
    """By stochastic gradient descent, 20 passes: far from a minimum, without a penalty."""
    train, test, results = benchmark.train_normal, benchmark.test_normal, benchmark.results
    sgd = Sgd((train.x.shape[1], 10), _PASSES)
    recipe = SgdRecipe(sgd, train, test)
    halves = benchmark.halves(recipe, "lr")
    others = benchmark.other_halves(SgdRecipe(sgd, train, benchmark.choosing), "lr")
    everything = np.arange(len(train))
    passes = sgd.train(train, everything, SEED)
    model = _model(train).with_parameters(passes[-1])

    x_test, x_choosing = _with_bias(test), _with_bias(benchmark.choosing)
    choice = benchmark.timed(
        "lr_damping",
        lambda: choose_damping(
            model,
            others,
            x_choosing,
            benchmark.choosing.labels,
            DAMPINGS,
            curvature=model.hessian(),
            solver=Exact(),
        ),
    )
    curvature = model.hessian() + choice.damping
    scores = benchmark.timed(
        "lr_influence",
        lambda: model.influence_on_loss(x_test, test.labels, curvature=curvature, solver=Exact()),
    )
    chosen = passes[_PASSES // 5 - 1 :: _PASSES // 5]
    rates = np.full(len(chosen), sgd.rate / sgd.batch_size)
    traced = benchmark.timed("lr_tracin", lambda: tracin(model, chosen, rates, x_test, test.labels))
    benchmark.add("lr_lds_published", halves.score(scores), 0.80)
    benchmark.add("lr_tracin_lds", halves.score(traced), 0.33)
    benchmark.add("lr_lds_published_one_training", single(halves).score(scores), 0.80)
    results.add("lr_lds_ceiling", halves.ceiling())
    results.add("lr_lds_ceiling_one_training", halves.ceiling(1))
    results.add("lr_damping", choice.damping)
    results.add("lr_dampings", choice.dampings)
    results.add("lr_lds_by_damping", [result.score for result in choice.results])

    removed = _removed(benchmark)
    units = [(everything, SEED), *((np.delete(everything, i), SEED) for i in removed)]
    with processes(benchmark.config.jobs):
        before, *after = retrained(
            recipe, units, checkpoint=benchmark.folder / "lr_loo.npz", progress=True
        )
    for name, values, published in (
        ("lr_loo_published", scores, 0.88),
        ("lr_tracin_loo", traced, 0.28),
    ):
        correlation, interval = mean_correlation(np.array(after) - before, values[:, removed].T)
        results.add(name, correlation, published)
        results.add(f"{name}_interval", interval)


def add_minimum(benchmark: Benchmark) -> None:
    """With a penalty, fitted and refitted until the gradient is next to nothing."""
    test, results = benchmark.test, benchmark.results
    for weight_decay, name in _WEAK.items():
        model = LogisticRegression(benchmark.train, weight_decay, 10, "float64").fit()
        halves = benchmark.halves(Refits(model, test.x, test.labels), f"{name}_minimum")
        scores = benchmark.timed(
            f"{name}_first",
            lambda model=model: model.influence_on_loss(test.x, test.labels, solver=Exact()),
        )
        removed = list(halves.removed)
        newton = benchmark.timed(
            f"{name}_newton",
            lambda model=model, removed=removed: model.influence_of_sets(
                removed, test.x, test.labels, order="newton"
            ),
        )
        benchmark.add(f"{name}_lds_first", halves.score(scores))
        benchmark.add(f"{name}_lds", halves.score_of(newton))
        indices = _removed(benchmark)
        actual = leave_one_out(
            model,
            indices,
            test.x,
            test.labels,
            checkpoint=benchmark.folder / f"{name}_minimum_loo.npz",
        )
        correlation, interval = mean_correlation(actual.changes, scores[:, indices].T)
        results.add(f"{name}_loo", correlation)
        results.add(f"{name}_loo_interval", interval)


def _removed(benchmark):
    """Points to remove alone."""
    random = np.random.default_rng(0)
    return random.choice(len(benchmark.train), benchmark.config.removed, replace=False)


def _model(train):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(Dataset(_with_bias(train), train.labels), 0.0, num_classes=10)


def _with_bias(points):
    """With a constant feature, whose weights are the biases of the network of one layer."""
    return np.concatenate([points.x, np.ones((len(points), 1), np.float32)], axis=1)
