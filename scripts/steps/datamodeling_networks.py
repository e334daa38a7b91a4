"""The benchmark's network: whole-network influence, an ensemble of it, EK-FAC, the last layer,
TracIn."""

from __future__ import annotations

import keras
import numpy as np

from influence import KerasModel, choose_damping, tracin
from influence.solvers.nystrom import NystromSolver
from scripts.steps.datamodeling import SEED, Benchmark, first_tests, single
from scripts.steps.sgd import Sgd, SgdRecipe

DAMPINGS = (3e-4, 1e-3, 3e-3, 1e-2)
# Of the residual of a solve: an order of points needs no more.
_TOLERANCE = 1e-2
# Test images whose solves go together.
_AT_ONCE = 100
# Checkpoints for TracIn, spread evenly over the passes.
_CHECKPOINTS = 10


def add_networks(benchmark: Benchmark) -> None:
    """784-128-64-10 with ReLU and dropout, by stochastic gradient descent with momentum."""
    config, results = benchmark.config, benchmark.results
    train, number = benchmark.train_normal, config.network_tests
    sgd = Sgd((train.x.shape[1], 128, 64, 10), config.network_passes, momentum=0.9, dropout=0.1)
    halves = benchmark.halves(SgdRecipe(sgd, train, benchmark.test_normal), "mlp")
    others = benchmark.other_halves(SgdRecipe(sgd, train, benchmark.choosing), "mlp")
    everything = np.arange(len(train))
    passes = [sgd.train(train, everything, SEED + i) for i in range(config.networks)]
    halves = first_tests(halves, number)
    x_test = benchmark.test_normal.x[:number]
    y_test = benchmark.test_normal.labels[:number]

    network = _network(sgd.layers)
    model = KerasModel(network, (train.x, train.labels)).with_parameters(passes[0][-1])
    predicted = model.outputs(benchmark.test_normal.x).argmax(axis=1)
    results.add("mlp_test_accuracy", float(np.mean(predicted == benchmark.test_normal.labels)))
    solver, choosing = NystromSolver(_TOLERANCE), benchmark.choosing

    def chosen_damping(curvature=None):
        return choose_damping(
            model,
            others,
            choosing.x,
            choosing.labels,
            DAMPINGS,
            curvature=curvature,
            solver=None if curvature else solver,
        )

    def influence(model):
        curvature = model.gauss_newton() + choice.damping
        parts = [
            model.influence_on_loss(
                x_test[first : first + _AT_ONCE],
                y_test[first : first + _AT_ONCE],
                curvature=curvature,
                solver=solver,
            )
            for first in range(0, number, _AT_ONCE)
        ]
        return np.concatenate(parts)

    choice = benchmark.timed("mlp_damping", chosen_damping)
    scores = benchmark.timed("mlp_influence", lambda: influence(model))
    ekfac = benchmark.timed("mlp_ekfac_factors", model.ekfac)
    by_factors = benchmark.timed("mlp_ekfac_damping", lambda: chosen_damping(ekfac))
    approximate = benchmark.timed(
        "mlp_ekfac",
        lambda: model.influence_on_loss(x_test, y_test, curvature=ekfac + by_factors.damping),
    )
    others = [model.with_parameters(trained[-1]) for trained in passes[1:]]
    ensemble = benchmark.timed(
        "mlp_influence_ensemble",
        lambda: np.mean([scores, *(influence(other) for other in others)], axis=0),
    )
    chosen = passes[0][:: -max(1, config.network_passes // _CHECKPOINTS)]
    rates = np.full(len(chosen), sgd.rate / sgd.batch_size)
    traced = benchmark.timed("mlp_tracin", lambda: tracin(model, chosen, rates, x_test, y_test))
    last_layer = benchmark.timed(
        "mlp_last_layer", lambda: influence(_last_layer(network, passes[0][-1], train))
    )
    for name, values, published in (
        ("mlp_lds", scores, 0.26),
        ("mlp_lds_ensemble", ensemble, 0.45),
        ("mlp_ekfac_lds", approximate, None),
        ("mlp_last_layer_lds", last_layer, None),
        ("mlp_tracin_lds", traced, 0.15),
    ):
        benchmark.add(name, halves.score(values), published)
        benchmark.add(f"{name}_one_training", single(halves).score(values), published)
    results.add("mlp_lds_ceiling", halves.ceiling())
    results.add("mlp_lds_ceiling_one_training", halves.ceiling(1))
    results.add("mlp_damping", choice.damping)
    results.add("mlp_dampings", choice.dampings)
    results.add("mlp_lds_by_damping", [result.score for result in choice.results])
    results.add("mlp_ekfac_damping", by_factors.damping)
    results.add("mlp_tests", number, 500)
    results.add("mlp_networks", config.networks)


def _network(layers):
    hidden = [keras.layers.Dense(units, activation="relu") for units in layers[1:-1]]
    network = keras.Sequential([keras.Input((layers[0],)), *hidden, keras.layers.Dense(layers[-1])])
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network


def _last_layer(network, theta, train):
    """The model of the last layer alone, on what the trained layers below make of the points."""
    sizes = np.cumsum([np.prod(v.shape) for v in network.trainable_variables])
    for variable, values in zip(network.trainable_variables, np.split(theta, sizes[:-1])):
        variable.assign(values.reshape(variable.shape))
    return KerasModel(network, (train.x, train.labels), variables=network.layers[-1])
