"""Sparse points give the same numbers as dense ones, and stay sparse."""

import gc
import weakref

import numpy as np
import pytest
import scipy.sparse

from influence import BinaryLogisticRegression, Dataset, Lissa, LogisticRegression, leave_one_out
from influence.linear.gram import quadratic_forms
from tests.networks import TinyNetwork

RANDOM = np.random.default_rng(0)
X = RANDOM.random((80, 30)) * (RANDOM.random((80, 30)) < 0.2)
LABELS = RANDOM.integers(0, 2, 80)


def both(make=BinaryLogisticRegression, x=X, **settings):
    """The same model fitted to the dense and to the sparse points."""
    settings = {"weight_decay": 0.01, "dtype": "float64"} | settings
    dense = make(Dataset(x, LABELS, scale=0.5), **settings).fit()
    sparse = make(Dataset(scipy.sparse.csr_array(x), LABELS, scale=0.5), **settings).fit()
    return dense, sparse


@pytest.mark.parametrize("make", [BinaryLogisticRegression, LogisticRegression])
@pytest.mark.parametrize(
    "ask",
    [
        lambda m, x, y: m.parameters,
        lambda m, x, y: m.gradient(),
        lambda m, x, y: m.objective(),
        lambda m, x, y: m.losses(x, y),
        lambda m, x, y: m.predict(x),
        lambda m, x, y: m.hessian().dense(),
        lambda m, x, y: m.hessian().diagonal(),
        lambda m, x, y: m.hessian() @ np.ones((m.num_parameters, 3)),
        lambda m, x, y: m.influence_on_loss(x, y),
        lambda m, x, y: m.influence_on_loss(x, y, reduction="mean", train_indices=[3, 1]),
        lambda m, x, y: m.influence_on_loss(x, y, loss="adversarial"),
        lambda m, x, y: m.self_influence(),
        lambda m, x, y: leave_one_out(m, [4, 9], x, y).changes,
    ],
)
def test_same_numbers(make, ask):
    dense, sparse = both(make)
    x, y = X[:7], LABELS[:7]
    actual = ask(sparse, scipy.sparse.csr_matrix(x), y)
    np.testing.assert_allclose(actual, ask(dense, x, y), atol=1e-9)


def test_they_stay_sparse(monkeypatch):
    _, sparse = both()
    monkeypatch.setattr(scipy.sparse.csr_array, "toarray", lambda self: pytest.fail("made dense"))
    sparse.fit()
    sparse.losses(sparse.train.x, LABELS)
    sparse.hessian() @ np.ones(30)
    assert scipy.sparse.issparse(sparse.train.where(LABELS == 1).x)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_wide_self_influence_is_the_narrow_one(sparse):
    x = X[:, :, np.newaxis].repeat(3, axis=2).reshape(80, 90) * RANDOM.random((80, 90))
    model = both(x=x)[sparse]
    assert len(model.train) < model.num_parameters
    inverse = np.linalg.inv(model.hessian().dense())
    gradients = model.test_gradient(model.train.x, LABELS)
    truth = np.einsum("in,ij,jn->n", gradients, inverse, gradients)
    np.testing.assert_allclose(model.self_influence(), truth, rtol=1e-8)
    some = model.self_influence(train_indices=[5, 2])
    np.testing.assert_allclose(some, truth[[5, 2]], rtol=1e-6)


@pytest.mark.parametrize("smallest", [1.0, 1e-12, 0.0])
def test_quadratic_forms_with_vanishing_weights(smallest):
    x = RANDOM.standard_normal((20, 50))
    weights = np.where(np.arange(20) < 5, smallest, RANDOM.random(20))
    truth = np.einsum("ni,ij,nj->n", x, np.linalg.inv((x.T * weights) @ x + 0.3 * np.eye(50)), x)
    np.testing.assert_allclose(quadratic_forms(x @ x.T / 0.3, weights, x[:, :0]), truth, rtol=1e-10)


def test_a_model_goes_with_its_last_reference():
    _, sparse = both()
    watch = weakref.ref(sparse)
    del sparse
    gc.collect()
    assert watch() is None


def test_what_sparse_points_cannot_do_is_said():
    _, sparse = both()
    with pytest.raises(ValueError, match="toarray"):
        sparse.influence_input_gradient([1], X[:2], LABELS[:2])
    with pytest.raises(ValueError, match="^Lissa needs dense points"):
        sparse.influence_on_loss(X[:2], LABELS[:2], solver=Lissa(10.0, 10, 2))
    with pytest.raises(ValueError, match="takes no sparse points"):
        TinyNetwork(Dataset(scipy.sparse.csr_array(X), LABELS)).objective()


def test_bad_sparse_points_are_named():
    broken = scipy.sparse.csr_array(np.where(X.max() == X, np.nan, X))
    with pytest.raises(ValueError, match="stored entries of x must be finite"):
        Dataset(broken, LABELS)
    with pytest.raises(ValueError, match="80 rows and labels has 79"):
        Dataset(scipy.sparse.csr_array(X), LABELS[:-1])
