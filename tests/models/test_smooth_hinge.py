"""The smooth hinge: its losses to the last digits, its fits, its bias, and Figure 3."""

import warnings

import mpmath
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.svm import LinearSVC

from influence import Dataset, leave_one_out
from influence.curvature.autodiff import AutodiffHessian
from influence.models.smooth_hinge import SmoothHinge, SmoothHingeLoss
from influence.objective.scans import Scans
from tests.conftest import Problem
from tests.oracles import central_difference

TEMPERATURES = [1e-6, 1e-4, 0.001, 0.1, 1.0, 10.0]
# Around the kink, in the tails of every temperature, and far outside.
MARGINS = np.concatenate([
    [-1e4, -300.0, -3.7, -1.0, 0.0, 0.5, 0.97, 1.0, 1.03, 1.5, 2.0, 4.2, 300.0, 1e4],
    1 + np.outer([-40.0, -5.0, -0.3, 0.3, 5.0, 40.0, 600.0], TEMPERATURES).ravel(),
])  # fmt: skip


def signs(problem):
    """Class 0 against the others, as ±1."""
    return np.where(problem.labels == 0, 1, -1)


def model_of(problem, temperature, weight_decay=0.05, dtype="float64", **settings):
    """An unfitted model of class 0 against the others."""
    train = Dataset(problem.x, signs(problem))
    return SmoothHinge(train, weight_decay, temperature, dtype=dtype, **settings)


def test_points(problem):
    """The test points with labels ±1."""
    return problem.x_test, np.where(problem.y_test == 0, 1, -1)


test_points.__test__ = False


def relative_gradient(model):
    """‖∇R(θ)‖ / ‖∇R(0)‖."""
    at_zero = model.with_parameters(np.zeros(model.num_parameters)).gradient()
    return np.linalg.norm(model.gradient()) / np.linalg.norm(at_zero)


def evaluate(temperature, margins, sign, dtype=tf.float64):
    """(losses, slopes, curvatures), each [b], of the library."""
    loss = SmoothHingeLoss(temperature)
    z = tf.constant(sign * np.asarray(margins)[:, np.newaxis], dtype)
    labels = tf.fill([len(margins)], tf.constant(sign, tf.int64))
    slopes, curvature = loss.slopes(z, labels)[:, 0], loss.curvature(z, labels)[:, 0]
    return [array.numpy() for array in (loss.losses(z, labels), slopes, curvature)]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_loss_and_two_derivatives_to_the_last_digits(temperature, sign):
    with mpmath.workdps(60):
        t, truth = mpmath.mpf(temperature), []
        for margin in MARGINS:
            u = (1 - mpmath.mpf(float(margin))) / t
            # exp(1e10) is no trouble for mpmath; log1p keeps what 1 + exp would round away.
            sigmoid, other = 1 / (1 + mpmath.exp(-u)), 1 / (1 + mpmath.exp(u))
            loss = t * (max(u, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(u))))
            truth.append([float(v) for v in (loss, -sign * sigmoid, sigmoid * other / t)])
    for ours, expected in zip(evaluate(temperature, MARGINS, sign), np.transpose(truth)):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_extreme_margins_neither_overflow_nor_lose_the_gradient(dtype):
    losses, slopes, curvature = evaluate(1e-6, [-1e4, 1e4], 1, dtype)
    np.testing.assert_allclose(losses, [10001, 0], rtol=1e-6)
    np.testing.assert_array_equal(slopes, [-1, 0])
    np.testing.assert_array_equal(curvature, [0, 0])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_hinge_is_within_t_log_2(temperature):
    margins = np.concatenate([MARGINS, np.linspace(-1, 3, 41)])
    hinge, _, _ = evaluate(0.0, margins, 1)
    np.testing.assert_array_equal(hinge, np.maximum(0, 1 - margins))
    smooth, _, _ = evaluate(temperature, margins, 1)
    bound = temperature * np.log(2) + 1e-15 * np.abs(margins)
    assert (smooth >= hinge - 1e-15 * np.abs(margins)).all()
    assert (smooth - hinge <= bound).all()


def test_the_slope_of_the_hinge_is_zero_from_the_kink_on():
    _, slopes, curvature = evaluate(0.0, [0.5, 1.0, 1.5], -1)
    np.testing.assert_array_equal(slopes, [1, 0, 0])
    np.testing.assert_array_equal(curvature, [0, 0, 0])


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("temperature", [0, 0.01, 1.0])
def test_closed_forms_are_the_generic_ones(problem, temperature, use_bias):
    model = model_of(problem, temperature, use_bias=use_bias)
    random = np.random.default_rng(1)
    model.parameters = 0.4 * random.standard_normal(model.num_parameters)
    points = model.points.checked(*test_points(problem), "x", "labels")
    block = tf.constant(random.standard_normal((model.num_parameters, 2)))
    for name, arguments in (
        ("losses", ("normal", points)),
        ("mean_gradient", ("normal", points)),
        ("directional_derivatives", (points, block)),
        ("gradients", ("normal", points)),
    ):
        generic = getattr(Scans(model), name)(*arguments)
        np.testing.assert_allclose(getattr(model.scans, name)(*arguments), generic, atol=1e-12)
    autodiff, block = AutodiffHessian(model), block.numpy()
    np.testing.assert_allclose(model.hessian() @ block, autodiff @ block, atol=1e-11)
    np.testing.assert_allclose(model.hessian().dense(), autodiff.dense(), atol=1e-11)
    losses = model.losses_at(model.parameters[:, np.newaxis], *test_points(problem))[:, 0]
    np.testing.assert_allclose(losses, model.losses(*test_points(problem)), atol=1e-14)


def test_hessian_in_numpy(problem):
    model, t = model_of(problem, 0.2), 0.2
    model.parameters = np.linspace(-1, 1, 5)
    u = (1 - signs(problem) * (problem.x @ model.parameters)) / t
    second = 1 / (1 + np.exp(u)) / (1 + np.exp(-u)) / t
    truth = (problem.x.T * second) @ problem.x / len(u) + 0.05 * np.eye(5)
    np.testing.assert_allclose(model.hessian().dense(), truth, atol=1e-13)
    np.testing.assert_allclose(model.hessian().diagonal(), np.diag(truth), atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "temperature", "tolerance"),
    [("float64", t, 1e-10) for t in (1.0, 0.1, 0.001, 1e-4, 1e-5)] + [("float32", 0.1, 1e-5)],
)
@pytest.mark.parametrize("use_bias", [False, True])
def test_fit_reaches_the_optimum(problem, dtype, temperature, tolerance, use_bias):
    model = model_of(problem, temperature, dtype=dtype, use_bias=use_bias).fit()
    assert relative_gradient(model) <= tolerance


@pytest.mark.parametrize("seed", range(3))
def test_fit_recovers_from_a_bad_start(seed):
    model = model_of(Problem(seed=seed), 1e-4)
    model.parameters = 30 * np.random.default_rng(seed).standard_normal(5)
    assert relative_gradient(model.fit()) <= 1e-10


@pytest.mark.parametrize("use_bias", [False, True])
def test_the_hinge_is_linear_svc(problem, use_bias):
    model = model_of(problem, 0, use_bias=use_bias).fit()
    machine = LinearSVC(
        loss="hinge",
        dual=True,
        C=1 / (120 * 0.05),
        fit_intercept=use_bias,
        intercept_scaling=1,
        tol=1e-6,
        max_iter=5000,
        random_state=24,
    ).fit(problem.x, signs(problem))
    truth = machine.coef_[0]
    if use_bias:
        truth = np.append(truth, machine.intercept_)
    np.testing.assert_allclose(model.parameters, truth, atol=1e-12)
    np.testing.assert_array_equal(model.predict(problem.x), machine.predict(problem.x))
    np.testing.assert_allclose(
        model.outputs(problem.x)[:, 0], machine.decision_function(problem.x), atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0, 0.01])
def test_sparse_points(problem, temperature):
    dense = model_of(problem, temperature).fit()
    train = Dataset(scipy.sparse.csr_array(problem.x), signs(problem))
    model = SmoothHinge(train, 0.05, temperature, dtype="float64").fit()
    np.testing.assert_allclose(model.parameters, dense.parameters, atol=1e-9)
    dense = model_of(problem, temperature, use_bias=True).fit()
    model = SmoothHinge(train, 0.05, temperature, use_bias=True, dtype="float64").fit()
    np.testing.assert_allclose(model.parameters, dense.parameters, atol=1e-9)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("temperature", [0, 0.1])
def test_self_influence_of_wide_data(temperature, use_bias):
    model = model_of(Problem(n=30, d=40), temperature, use_bias=use_bias).fit()
    gradients = model.scans.gradients("normal", model.tensors)
    truth = np.sum(gradients.T * np.linalg.solve(model.hessian().dense(), gradients.T), axis=0)
    np.testing.assert_allclose(model.self_influence(), truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("use_bias", [False, True])
def test_low_temperatures_tend_to_the_hinge(problem, use_bias):
    hinge = model_of(problem, 0, use_bias=use_bias).fit()
    distances = []
    for temperature in (0.1, 0.01, 0.001, 1e-4):
        smooth = model_of(problem, temperature, use_bias=use_bias).fit()
        # The smooth optimum is within t log 2 of the hinge's, in the hinge's own objective.
        at_smooth = hinge.with_parameters(smooth.parameters).objective()
        assert at_smooth - hinge.objective() <= temperature * np.log(2) + 1e-6
        distances.append(np.linalg.norm(smooth.parameters - hinge.parameters))
    assert distances[-1] < 1e-2 * distances[0]


@pytest.mark.parametrize("dtype", [np.float64, np.uint8], ids=["float", "eight-bit"])
@pytest.mark.parametrize("temperature", [0, 0.1])
def test_bias_is_a_column_appended_by_hand(problem, temperature, dtype):
    x, x_test = problem.x, problem.x_test
    scale = 0.3
    if dtype == np.uint8:
        x, x_test = (np.clip(40 * a + 120, 0, 255).astype(np.uint8) for a in (x, x_test))
        scale = 1 / 255
    y, y_test = signs(problem), test_points(problem)[1]

    def by_hand(points):
        return np.hstack([points * scale, np.ones((len(points), 1))])

    settings = (0.05, temperature)
    ours = SmoothHinge(Dataset(x, y, scale), *settings, use_bias=True, dtype="float64").fit()
    hand = SmoothHinge(Dataset(by_hand(x), y), *settings, dtype="float64").fit()
    assert ours.num_parameters == 6
    same = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(ours.parameters, hand.parameters, **same)
    points, other = (x_test, y_test), (by_hand(x_test), y_test)
    np.testing.assert_allclose(ours.outputs(x_test), hand.outputs(other[0]), **same)
    np.testing.assert_allclose(ours.losses(*points), hand.losses(*other), **same)
    assert ours.objective() == pytest.approx(hand.objective(), rel=1e-12)
    np.testing.assert_allclose(ours.gradient(), hand.gradient(), **same)
    np.testing.assert_allclose(ours.hessian().dense(), hand.hessian().dense(), **same)
    for loss in (None, "mean"):
        np.testing.assert_allclose(
            ours.influence_on_loss(*points, reduction=loss),
            hand.influence_on_loss(*other, reduction=loss),
            **same,
        )
    np.testing.assert_allclose(ours.self_influence(), hand.self_influence(), **same)
    np.testing.assert_allclose(
        ours.influence_of_points(*points, *points), hand.influence_of_points(*other, *other), **same
    )
    gradient = ours.influence_input_gradient([3, 5], *points)
    truth = hand.influence_input_gradient([3, 5], *other)
    assert gradient.shape == (2, 5)
    np.testing.assert_allclose(gradient, truth[:, :5], **same)
    refits = ours.refit([3]), hand.refit([3])
    np.testing.assert_allclose(refits[0].parameters, refits[1].parameters, **same)


def test_images_with_a_bias():
    problem = Problem(d=6)
    y = signs(problem)
    flat = model_of(problem, 0.1, use_bias=True).fit()
    train = Dataset(problem.x.reshape(-1, 2, 3), y)
    square = SmoothHinge(train, 0.05, 0.1, use_bias=True, dtype="float64").fit()
    np.testing.assert_allclose(square.parameters, flat.parameters, atol=1e-9)
    x_test, y_test = test_points(problem)
    gradient = square.influence_input_gradient([1], x_test.reshape(-1, 2, 3), y_test)
    assert gradient.shape == (1, 2, 3)
    truth = flat.influence_input_gradient([1], x_test, y_test)
    np.testing.assert_allclose(gradient.reshape(1, 6), truth, atol=1e-9)


def test_input_gradient_with_a_bias_is_the_derivative(problem):
    model = model_of(problem, 0.3, use_bias=True).fit()
    points = test_points(problem)

    def influence(x):
        return model.influence_of_points(x, [model.train.labels[4]], *points).mean()

    truth = central_difference(influence, problem.x[4])
    gradient = model.influence_input_gradient([4], *points)[0]
    np.testing.assert_allclose(gradient, truth, atol=1e-9)


@pytest.mark.parametrize("use_bias", [False, True])
def test_influence_is_the_change_of_refitting(use_bias):
    problem = Problem(n=1000)
    model = model_of(problem, 0.2, weight_decay=0.01, use_bias=use_bias).fit()
    points = test_points(problem)
    predicted = model.influence_on_loss(*points)
    chosen = np.argsort(-np.abs(predicted).max(axis=0), kind="stable")[:60]
    refits = leave_one_out(model, chosen, *points)
    actual, predicted = refits.changes.ravel(), predicted[:, chosen].T.ravel()
    assert refits.gradient_norms.max() <= 1e-8
    assert np.corrcoef(actual, predicted)[0, 1] >= 0.99
    assert np.polyfit(actual, predicted, 1)[0] == pytest.approx(1, abs=0.05)
    alone = model.refit(int(chosen[0])).losses(*points) - model.losses(*points)
    np.testing.assert_allclose(refits.changes[0], alone, atol=1e-7)


def test_influence_on_the_hinge_is_the_regularisers(problem):
    hinge = model_of(problem, 0).fit()
    np.testing.assert_allclose(hinge.hessian().dense(), 0.05 * np.eye(5), atol=1e-16)
    x_test, y_test = test_points(problem)
    test, train = (
        -y[:, np.newaxis] * x * (y * (x @ hinge.parameters) < 1)[:, np.newaxis]
        for x, y in ((x_test, y_test), (problem.x, signs(problem)))
    )
    truth = test @ (train + 0.05 * hinge.parameters).T / 0.05 / 120
    # Support vectors on the kink to rounding may count on either side.
    clear = np.abs(signs(problem) * (problem.x @ hinge.parameters) - 1) > 1e-5
    ours = hinge.influence_on_loss(x_test, y_test)
    np.testing.assert_allclose(ours[:, clear], truth[:, clear], atol=1e-12)


def test_refitting_the_hinge_is_fitting_the_other_points(problem):
    hinge = model_of(problem, 0, use_bias=True).fit()
    train = hinge.train.without([7])
    again = SmoothHinge(train, 0.05, 0, use_bias=True, dtype="float64").fit()
    np.testing.assert_array_equal(hinge.refit(7).parameters, again.parameters)


@pytest.mark.parametrize("use_bias", [False, True])
def test_weights_of_another_model(problem, use_bias):
    hinge = model_of(problem, 0, use_bias=use_bias).fit()
    model = model_of(problem, 0.1, use_bias=use_bias, batch_size=7)
    smooth = model.with_parameters(hinge.parameters)
    assert (smooth.temperature, smooth.use_bias, smooth.batch_size) == (0.1, use_bias, 7)
    assert (smooth.weight_decay, smooth.dtype) == (0.05, np.float64)
    np.testing.assert_array_equal(smooth.parameters, hinge.parameters)
    margins = test_points(problem)[1] * hinge.outputs(problem.x_test)[:, 0]
    truth = 0.1 * np.logaddexp(0, (1 - margins) / 0.1)
    np.testing.assert_allclose(smooth.losses(*test_points(problem)), truth, rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 1, 0], r"train\.labels must be -1 or \+1; 0 at position 0"),
        ([-1, 1, 2, 1], "2 at position 2"),
        ([-1, 0.5, 1, 1], r"0\.5 at position 1"),
        ([1, 1, 1, 1], "single class, 1"),
        ([-1, -1, -1, -1], "single class, -1"),
    ],
)
def test_labels_it_cannot_take(labels, message):
    with pytest.raises(ValueError, match=message):
        SmoothHinge(Dataset(np.eye(4), labels), 0.1, 0.1)


def test_test_labels_it_cannot_take(problem):
    with pytest.raises(ValueError, match=r"y_test must be -1 or \+1; 0 at position 1"):
        model_of(problem, 0.1).influence_on_loss(problem.x_test[:2], [1, 0])


@pytest.mark.parametrize("temperature", [-1e-3, np.nan, np.inf])
def test_temperature_is_at_least_zero_and_finite(problem, temperature):
    with pytest.raises(ValueError, match="temperature"):
        model_of(problem, temperature)


def test_the_hinge_needs_a_regulariser(problem):
    with pytest.raises(ValueError, match="weight_decay must be above 0"):
        model_of(problem, 0, weight_decay=0)


def test_a_hinge_has_no_probabilities(problem):
    with pytest.raises(ValueError, match="adversarial"):
        model_of(problem, 0.1).losses(*test_points(problem), loss="adversarial")


def test_fit_says_nothing_when_all_is_well(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for temperature in (0, 1e-4, 1.0):
            model_of(problem, temperature).fit()
