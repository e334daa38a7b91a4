"""Random Keras models: right to a hundredth, or refused in one sentence; there is no third outcome.

40 draws here; ``FUZZ_DRAWS=500 python -m pytest -s tests/keras_models/test_fuzz.py`` makes more.
"""

import functools
import os
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, note, reject, settings

from influence import KerasModel
from tests.keras_models.fuzz_models import POINTS, labels, network, points, recipes

DRAWS = int(os.environ.get("FUZZ_DRAWS", "40"))
# Of central differences in float64.
STEP = 1e-7


class Truth:
    """Dense and in float64, by reverse mode and differences alone; from Keras' own loss.

    Args:
        recipe: of the network.
        model: that network in float64.
        x, y: the points.
        shares: the weight of each point, [n].
    """

    def __init__(self, recipe, model, x, y, shares):
        self.model = model
        _, activation, loss, _ = recipe.loss
        # The logits are what goes into these.
        self.last = None
        if activation in ("softmax", "sigmoid"):
            self.last = keras.activations.get(activation)
            self.model.layers[-1].activation = keras.activations.linear
        loss = loss()
        self.loss = loss.call if isinstance(loss, keras.Loss) else keras.losses.get(loss)
        self.x, self.y, self.shares = tf.constant(x), tf.constant(y, tf.float64), shares
        self.variables = [v.value for v in self.model.trainable_variables]
        self.theta = flat(self.variables).numpy()
        logits = self.model(self.x)
        self.shape, self.mask = logits.shape, getattr(logits, "_keras_mask", None)

    def is_per_point(self):
        return self._entries(self.model(self.x)).shape[:1] == [POINTS]

    def losses(self, logits):
        """The mean over the entries of each point that are not masked, [n]."""
        entries = tf.reshape(self._entries(logits), [POINTS, -1])
        if self.mask is None:
            return tf.reduce_mean(entries, axis=1)
        kept = tf.cast(tf.reshape(self.mask, entries.shape), entries.dtype)
        return tf.reduce_sum(kept * entries, axis=1) / tf.reduce_sum(kept, axis=1)

    def _entries(self, logits):
        outputs = logits if self.last is None else self.last(logits)
        y = self.y
        if len(outputs.shape) > len(y.shape) and outputs.shape[-1] == 1:
            y = y[..., tf.newaxis]
        return self.loss(y, outputs)

    @functools.partial(tf.function, autograph=False)
    def _values(self):
        with tf.GradientTape(persistent=True) as tape:
            logits = self.model(self.x)
            losses, penalty = self.losses(logits), tf.add_n(self.model.losses)
            objective = tf.tensordot(self.shares / POINTS, losses, 1) + penalty
        slopes = [
            flat(tape.gradient(value, self.variables, None, "zero"))
            for value in (objective, penalty)
        ]
        return losses, *slopes, tf.reshape(logits, [POINTS, -1])

    def at(self, theta):
        """(losses [n], gradient of the objective [p], that of the penalty [p], logits [n, c])."""
        sizes = np.cumsum([v.shape.num_elements() for v in self.variables])[:-1]
        for variable, part in zip(self.variables, np.split(theta, sizes)):
            variable.assign(part.reshape(variable.shape))
        return [part.numpy() for part in self._values()]

    @functools.cached_property
    def here(self):
        return self.at(self.theta)

    @functools.cached_property
    def derivatives(self):
        """Of each of these, in all parameters, [..., p]."""
        return differences(self.at, self.theta)

    @functools.cached_property
    def gradients(self):
        """Of the loss of each point, [n, p]."""
        self.at(self.theta)
        with tf.GradientTape(persistent=True) as tape:
            losses = tf.unstack(self.losses(self.model(self.x)))
        rows = [flat(tape.gradient(one, self.variables, None, "zero")) for one in losses]
        return np.stack(rows)

    def is_contradicted(self):
        """Whether reverse mode is not the derivative of the losses."""
        error = np.abs(self.gradients - self.derivatives[0])
        return error.max() > 1e-3 * (1 + np.abs(self.gradients).max())

    def hessian(self):
        matrix = self.derivatives[1]
        return (matrix + matrix.T) / 2

    def gauss_newton(self):
        logits, jacobians = self.here[3], self.derivatives[3]

        def slopes(logits):
            logits = tf.reshape(tf.constant(logits.reshape(POINTS, -1)), self.shape)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                total = tf.reduce_sum(self.losses(logits))
            return [tape.gradient(total, logits).numpy().reshape(POINTS, -1)]

        # The losses' second derivatives in their own logits: each point moves the same one.
        [curvatures] = differences(slopes, logits)
        matrix = np.einsum(
            "n,nap,nab,nbq->pq", self.shares / POINTS, jacobians, curvatures, jacobians
        )
        return matrix + self.derivatives[2]

    def scores(self, matrix, tests):
        """(1/n) ∇L(test)ᵀ M⁻¹ (w ∇L(z) + ∇penalty): [m, n]."""
        removed = self.shares[:, np.newaxis] * self.gradients + self.here[2]
        return self.gradients[tests] @ np.linalg.solve(matrix, removed.T) / POINTS


def differences(function, at):
    """Derivatives of all that ``function`` returns, along each unit vector of the last axis."""
    columns = []
    for unit in np.eye(at.shape[-1]):
        ahead, behind = (function(at + sign * STEP * unit) for sign in (1, -1))
        columns.append([(a - b) / (2 * STEP) for a, b in zip(ahead, behind)])
    return [np.stack(column, axis=-1) for column in zip(*columns)]


def flat(tensors):
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def outcomes_of(recipe):
    """What became of the model and of its scores by each curvature."""
    note(recipe)
    random = np.random.default_rng(recipe.seed)
    keras.utils.set_random_seed(recipe.seed)
    x = points(recipe, random)
    try:
        exact, model = network(recipe, "float64", exact=True), network(recipe, recipe.dtype)
        shape = exact(x).shape
    except Exception:  # Keras has no such model, and many ways to say so.
        reject()
    # Parameters that start at 0, as those of PReLU, put what comes after exactly at a kink.
    for variable in exact.trainable_variables:
        variable.assign_add(0.1 * random.standard_normal(variable.shape))
    model.set_weights(exact.get_weights())
    y = labels(recipe, shape, random)
    shares = random.uniform(0.5, 2, POINTS) if recipe.weighted else np.ones(POINTS)
    try:
        ours = KerasModel(model, (x, y), sample_weight=shares if recipe.weighted else None)
    except ValueError as error:
        assert_one_sentence(error)
        return ["refused"]
    truth = Truth(recipe, exact, x, y, shares)
    assert truth.is_per_point()
    assert all(np.isfinite(part).all() for part in (truth.gradients, *truth.here))
    assert not truth.is_contradicted()
    return ["made", *(outcome(ours, truth, kind, x, y) for kind in ("hessian", "gauss_newton"))]


def outcome(ours, truth, kind, x, y):
    """Products with a curvature, and scores by it with as much damping as makes it positive and
    well conditioned, which hides some of what is wrong with it."""
    matrix = getattr(truth, kind)()
    ends = np.linalg.eigvalsh(matrix)
    damping = 2 * max(-ends[0], 0) + 0.1 * np.abs(ends).max() + 0.01
    block = np.random.default_rng(0).standard_normal((len(matrix), 2))
    try:
        curvature = getattr(ours, kind)()
        products = curvature @ block
        scores = ours.influence_on_loss(x[:2], y[:2], curvature=curvature + damping)
    except ValueError as error:
        assert_one_sentence(error)
        return f"no {kind}"
    assert_near(products, matrix @ block, f"products with the {kind}")
    expected = truth.scores(matrix + damping * np.eye(len(matrix)), slice(2))
    assert_near(scores, expected, f"scores by the {kind}")
    return kind


def assert_near(found, expected, what):
    tolerance = 0.01 * np.abs(expected).max() + 1e-9
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


def assert_one_sentence(error):
    message = str(error)
    assert "\n" not in message, message
    assert message.endswith("."), message
    assert len(message) < 500, message


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_random_models_are_right_or_refused():
    outcomes = Counter()

    # What fails is small already, and shrinking it takes minutes.
    @settings(
        max_examples=DRAWS,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes())
    def draw(recipe):
        outcomes.update(outcomes_of(recipe))

    draw()
    print(dict(outcomes))
    assert outcomes["made"] > 0.6 * (outcomes["made"] + outcomes["refused"])
    assert outcomes["gauss_newton"] > 0.95 * outcomes["made"]
    assert outcomes["hessian"] > 0.8 * outcomes["made"]
