"""Dense float64 truths in NumPy, written from the formulas and not from the library."""

from __future__ import annotations

import numpy as np


def softmax(z):
    """Row-wise softmax of z [n, c]."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class SoftmaxRegression:
    """(1/n) Σ −log softmax(x_i W)_{y_i} + (λ/2)‖W‖² with W [d, c] flattened row by row."""

    def __init__(self, x, labels, weight_decay, num_classes):
        self.x, self.labels = np.asarray(x, np.float64), np.asarray(labels)
        self.weight_decay, self.c = weight_decay, num_classes
        self.n, self.d = self.x.shape
        self.p = self.d * num_classes

    def without(self, index):
        """The same objective on n − 1 points."""
        x, labels = np.delete(self.x, index, 0), np.delete(self.labels, index)
        return SoftmaxRegression(x, labels, self.weight_decay, self.c)

    def _z(self, theta, x):
        return x @ theta.reshape(self.d, self.c)

    def losses(self, theta, x, labels):
        """[m]"""
        return -np.log(softmax(self._z(theta, x))[np.arange(len(x)), labels])

    def objective(self, theta):
        """R(θ)."""
        ridge = self.weight_decay / 2 * theta @ theta
        return self.losses(theta, self.x, self.labels).mean() + ridge

    def gradients(self, theta, x, labels):
        """∇L of each point, [m, p]."""
        s = softmax(self._z(theta, x)) - np.eye(self.c)[labels]
        return np.einsum("nd,nc->ndc", x, s).reshape(len(x), -1)

    def gradient(self, theta):
        """∇R, [p]."""
        mean = self.gradients(theta, self.x, self.labels).mean(axis=0)
        return mean + self.weight_decay * theta

    def row_hessian(self, theta, row):
        """∇²L of one point, [p, p]."""
        q = softmax(self._z(theta, self.x[row : row + 1]))[0]
        curvature = np.diag(q) - np.outer(q, q)
        outer = np.outer(self.x[row], self.x[row])
        return np.einsum("ij,ab->iajb", outer, curvature).reshape(self.p, self.p)

    def hessian(self, theta):
        """∇²R, [p, p]."""
        mean = sum(self.row_hessian(theta, row) for row in range(self.n)) / self.n
        return mean + self.weight_decay * np.eye(self.p)

    def fit(self):
        """The minimiser by full Newton steps, to the last digit."""
        theta = np.zeros(self.p)
        for _ in range(100):
            gradient = self.gradient(theta)
            if np.linalg.norm(gradient) < 1e-14:
                break
            step = np.linalg.solve(self.hessian(theta), gradient)
            size = 1.0
            while self.objective(theta - size * step) > self.objective(theta) and size > 1e-6:
                size /= 2
            theta = theta - size * step
        return theta


class BinaryRegression:
    """The same for (1/n) Σ log(1 + exp(−y_i wᵀx_i)), labels 0/1 with y = ±1."""

    def __init__(self, x, labels, weight_decay):
        self.x, self.labels = np.asarray(x, np.float64), np.asarray(labels)
        self.weight_decay, (self.n, self.p) = weight_decay, self.x.shape

    def gradients(self, theta, x, labels):
        """[m, p]"""
        y = 2.0 * labels - 1
        return (-y / (1 + np.exp(y * (x @ theta))))[:, np.newaxis] * x

    def losses(self, theta, x, labels):
        """[m]"""
        return np.log1p(np.exp(-(2.0 * labels - 1) * (x @ theta)))

    def gradient(self, theta):
        """∇R, [p]."""
        mean = self.gradients(theta, self.x, self.labels).mean(axis=0)
        return mean + self.weight_decay * theta

    def hessian(self, theta):
        """∇²R, [p, p]."""
        q = 1 / (1 + np.exp(-self.x @ theta))
        mean = (self.x * (q * (1 - q))[:, np.newaxis]).T @ self.x / self.n
        return mean + self.weight_decay * np.eye(self.p)


def removal(gradients, s_test, theta, weight_decay, n):
    """(1/n) s_testᵀ(∇L + λθ) for gradients [q, p] and s_test [p, m]: [m, q]."""
    return (s_test.T @ gradients.T + weight_decay * (s_test.T @ theta)[:, np.newaxis]) / n


def central_difference(function, point, step=1e-5):
    """Derivatives of ``function`` (of a vector, any shape out) along every axis, last axis."""
    columns = []
    for i in range(point.size):
        shift = np.zeros(point.size)
        shift[i] = step
        shift = shift.reshape(point.shape)
        columns.append((function(point + shift) - function(point - shift)) / (2 * step))
    return np.stack(columns, axis=-1)


def of_parameters(model, value):
    """θ -> ``value(model at θ)``, on one copy of the model: it is traced once for all θ."""
    moved = model.with_parameters(model.parameters)

    def at(theta):
        moved.parameters = theta
        return value(moved)

    return at
