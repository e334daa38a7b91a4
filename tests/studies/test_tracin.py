"""TracIn against gradients by hand, and from the files that Keras leaves behind."""

import keras
import numpy as np
import pytest

from influence import KerasModel, tracin
from tests.conftest import Problem

RATES = [0.3, 0.1]


def by_hand(model, thetas, test, rates=RATES):
    """Σ η ∇L(z_i)·∇L(z_test), point by point."""
    total = 0.0
    for theta, rate in zip(thetas, rates):
        at = model.with_parameters(theta)
        ours = at.test_gradient(model.train.x, model.train.labels)
        total = total + rate * at.test_gradient(*test).T @ ours
    return total


def trained(tmp_path, name, **settings):
    """A small network, its data, and the files of two passes over them."""
    problem = Problem(n=40)
    x = problem.x.astype(np.float32)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3, "softmax")]
    )
    network.compile("sgd", "sparse_categorical_crossentropy")
    path = str(tmp_path / name)
    callback = keras.callbacks.ModelCheckpoint(path, save_freq="epoch", **settings)
    network.fit(x, problem.labels, epochs=2, callbacks=[callback], verbose=0)
    files = [path.format(epoch=epoch) for epoch in (1, 2)]
    test = problem.x_test.astype(np.float32), problem.y_test
    return network, KerasModel(network, (x, problem.labels)), files, test


def test_it_is_the_sum_of_products_of_gradients():
    problem = Problem(n=30)
    model = problem.softmax_model()
    random = np.random.default_rng(0)
    thetas = random.standard_normal((2, model.num_parameters))
    test = problem.x_test, problem.y_test
    scores = tracin(model, thetas, RATES, *test)
    np.testing.assert_allclose(scores, by_hand(model, thetas, test), rtol=1e-9)
    few = tracin(model, thetas, RATES, *test, train_indices=[7, 2])
    np.testing.assert_array_equal(few, scores[:, [7, 2]])
    assert (model.parameters == 0).all()


def test_a_step_on_a_point_takes_its_score_off_the_loss():
    problem = Problem(n=30)
    model = problem.softmax_model(weight_decay=0.0).fit()
    model = model.with_parameters(0.3 * model.parameters)
    test = problem.x_test, problem.y_test
    rate, point = 1e-4, 11
    gradient = model.test_gradient(problem.x[[point]], problem.labels[[point]])[:, 0]
    stepped = model.with_parameters(model.parameters - rate * gradient)
    taken = model.losses(*test) - stepped.losses(*test)
    scores = tracin(model, [model.parameters], [rate], *test, train_indices=[point])
    np.testing.assert_allclose(scores[:, 0], taken, rtol=1e-2, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("{epoch}.keras", {}), ("{epoch}.weights.h5", {"save_weights_only": True})],
)
def test_it_reads_the_files_of_keras(tmp_path, name, settings):
    network, model, files, test = trained(tmp_path, name, **settings)
    before = model.parameters
    scores = tracin(model, files, RATES, *test)
    last = np.concatenate([v.numpy().ravel() for v in network.trainable_variables])
    np.testing.assert_array_equal(model.parameters_in(files[1]), last)
    thetas = [model.parameters_in(file) for file in files]
    assert np.abs(thetas[0] - thetas[1]).max() > 1e-4
    np.testing.assert_allclose(scores, by_hand(model, thetas, test), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(model.parameters, before)
    models = [model.with_parameters(theta) for theta in thetas]
    np.testing.assert_array_equal(tracin(model, models, RATES, *test), scores)


@pytest.mark.slow
def test_files_that_do_not_fit_are_refused(tmp_path):
    network, model, files, test = trained(tmp_path, "{epoch}.keras")
    x, labels = model.train.x, model.train.labels
    last = KerasModel(network, (x, labels), variables=network.layers[-1])
    with pytest.raises(ValueError, match="has other values of .*dense.*, which is not among"):
        tracin(last, files[:1], [1.0], *test)
    tracin(last, files[1:], [1.0], *test)  # of the model as it is
    wide = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    wide.save(tmp_path / "wide.keras")
    with pytest.raises(ValueError, match="is not of the model .* it has other shapes"):
        tracin(model, [tmp_path / "wide.keras"], [1.0], *test)


def test_rates_and_checkpoints_that_do_not_fit_are_refused():
    problem = Problem(n=30)
    model = problem.softmax_model()
    test, theta = (problem.x_test, problem.y_test), model.parameters
    for rates in ([], [1.0, 2.0], [np.nan]):
        with pytest.raises(ValueError, match="one for each of the 1 checkpoints"):
            tracin(model, [theta], rates, *test)
    with pytest.raises(ValueError, match="one for each of the 0 checkpoints"):
        tracin(model, [], [], *test)
    with pytest.raises(ValueError, match="Files are of Keras models: give the parameters of a"):
        tracin(model, ["model.keras"], [1.0], *test)
    with pytest.raises(ValueError, match="has 20 training points, and the model 30"):
        tracin(model, [Problem(n=20).softmax_model()], [1.0], *test)
