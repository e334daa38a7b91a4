"""Forward and reverse mode give the same derivatives along vectors."""

import numpy as np
import pytest
import tensorflow as tf

from influence.curvature.modes import FORWARD, REVERSE
from tests.conftest import Problem
from tests.networks import TinyNetwork

MODES = pytest.mark.parametrize("mode", [FORWARD, REVERSE])


@MODES
def test_against_the_jacobian_and_the_hessian(mode):
    a, b = tf.Variable([1.0, 2.0], dtype=tf.float64), tf.Variable([[0.5]], dtype=tf.float64)
    tangents = [tf.constant([3.0, -1.0], tf.float64), tf.constant([[2.0]], tf.float64)]

    def function():
        return tf.stack([a[0] ** 2 * b[0, 0], a[1] * b[0, 0] ** 3])

    value, along, transposed = mode.linearized(function, [a, b])(tangents)
    np.testing.assert_allclose(value, [0.5, 0.25])
    # J = [[2 a₀ b, 0, a₀²], [0, b³, 3 a₁ b²]]
    jacobian = np.array([[1.0, 0, 1], [0, 0.125, 1.5]])
    np.testing.assert_allclose(along, jacobian @ [3, -1, 2])
    pulled = transposed(tf.constant([1.0, 2.0], tf.float64))
    np.testing.assert_allclose(np.concatenate([np.ravel(p) for p in pulled]), [1, 2] @ jacobian)
    total = mode.second(lambda: tf.reduce_sum(function()), [b], [a, b])(tangents)
    # ∂²/∂b∂(a, b) = [2 a₀, 3 b², 6 a₁ b]
    np.testing.assert_allclose(total, [[[2 * 3 - 0.75 + 6 * 2]]])


@MODES
def test_what_depends_on_nothing_and_rows_of_an_embedding(mode):
    table, other = tf.Variable(tf.ones([5, 2])), tf.Variable(1.0)
    tangents = [tf.ones([5, 2]), tf.constant(1.0)]

    def rows():
        return tf.gather(table, [1, 1, 3]) ** 2

    _, along, transposed = mode.linearized(rows, [table, other])(tangents)
    np.testing.assert_allclose(along, np.full([3, 2], 2.0))
    np.testing.assert_allclose(transposed(tf.ones([3, 2]))[0][:, 0], [0, 4, 0, 2, 0])
    product = mode.second(lambda: tf.reduce_sum(rows()), [table, other], [table, other])(tangents)
    np.testing.assert_allclose(product[0][:, 0], [0, 4, 0, 2, 0])
    assert float(product[1]) == 0


@pytest.mark.slow
def test_a_network_by_gradients_of_gradients():
    problem = Problem(n=30)
    forward, reverse = (TinyNetwork(problem.train, batch_size=7) for _ in range(2))
    reverse.mode = REVERSE
    block = np.random.default_rng(0).standard_normal((forward.num_parameters, 3))
    rows = np.arange(30).reshape(2, -1)
    for kind in ("hessian", "gauss_newton"):
        one, other = (getattr(model, kind)() + 1.0 for model in (forward, reverse))
        np.testing.assert_allclose(other @ block, one @ block, atol=1e-12)
        np.testing.assert_allclose(other.dense(), one.dense(), atol=1e-12)
        blocks = np.tile(block, (2, 1, 1))
        np.testing.assert_allclose(other.on(rows) @ blocks, one.on(rows) @ blocks, atol=1e-12)
    points = problem.x_test, problem.y_test
    scores = [
        model.influence_on_loss(*points, curvature=model.gauss_newton() + 1.0)
        for model in (forward, reverse)
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-12)
