"""Arrays that are read a block of rows at a time say what the same arrays say as tensors."""

import mmap
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Estimator
from sklearn.linear_model import Ridge

from influence import (
    BinaryLogisticRegression,
    Dataset,
    Lissa,
    LogisticRegression,
    SmoothHinge,
    from_sklearn,
)
from influence.data.dataset import is_mapped
from influence.linear.rows import RowBlocks
from tests.conftest import Problem

PROBLEM = Problem()
BINARY = (PROBLEM.labels == 0).astype(int)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2, len(BINARY))
TEST = PROBLEM.x[:7] + 0.1, BINARY[:7]


def logistic(x, labels=BINARY, weights=None):
    fitted = Estimator(C=0.5, solver="newton-cholesky", tol=1e-10)
    fitted.fit(PROBLEM.x, labels, sample_weight=weights)
    return from_sklearn(fitted, x, labels, weights)


# Made of the points' array.
MODELS = {
    "binary": lambda x: BinaryLogisticRegression(Dataset(x, BINARY), 0.05, "float64").fit(),
    "float32": lambda x: BinaryLogisticRegression(Dataset(x, BINARY), 0.05).fit(),
    "softmax": lambda x: LogisticRegression(Dataset(x, PROBLEM.labels), 0.05, 3, "float64").fit(),
    "scaled": lambda x: LogisticRegression(
        Dataset(x, PROBLEM.labels, scale=0.5), 0.05, 3, "float64"
    ).fit(),
    "hinge with a bias": lambda x: SmoothHinge(
        Dataset(x, 2 * BINARY - 1), 0.05, 0.3, use_bias=True, dtype="float64"
    ).fit(),
    "weighted": lambda x: logistic(x, weights=WEIGHTS),
    "three classes": lambda x: logistic(x, PROBLEM.labels, WEIGHTS),
    "ridge": lambda x: from_sklearn(Ridge().fit(PROBLEM.x, WEIGHTS), x, WEIGHTS),
}


def answers(model):
    """Everything that a linear model is asked."""
    labels = model.train.labels[:7]
    if hasattr(model, "_classes") and model._classes is not None:
        labels = model._classes[labels if labels.min() >= 0 else (labels + 1) // 2]
    test, few = (TEST[0], labels), np.arange(3, 90, 11)
    sets = [[3], [5, 17, 60], list(range(0, 110, 5))]
    return {
        "parameters": model.parameters,
        "objective": model.objective(),
        "gradient": model.gradient(),
        "outputs": model.outputs(test[0]),
        "scores": model.influence_on_loss(*test),
        "of some": model.influence_on_loss(*test, train_indices=few),
        "newton": model.influence_on_loss(*test, order="newton", train_indices=few),
        "self-influence": model.self_influence(),
        "of some points": model.self_influence(train_indices=few),
        "leverage": model.leverage(),
        "without": model.leave_one_out_outputs(),
        "sets": model.parameter_changes(sets, order="newton"),
        "product": model.hessian() @ np.ones((model.num_parameters, 2), model.dtype),
        "matrix": model.hessian().dense(),
        "diagonal": model.hessian().diagonal(),
        "refit": model.refit(without=[4, 7]).parameters,
    }


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", PROBLEM.x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("kind", MODELS)
def test_a_memory_mapped_array_has_the_answers_of_a_tensor(kind, mapped, monkeypatch):
    monkeypatch.setattr("influence.linear.block_functions._IN_CACHE", 2**20)  # blocks of one
    make = MODELS[kind]
    model, truth = make(mapped), answers(make(PROBLEM.x))
    assert isinstance(model.scans.matrix[0], RowBlocks)
    digits = 1e-9 if model.dtype == np.float64 else 2e-5
    for name, found in answers(model).items():
        size = np.abs(truth[name]).max()
        # Of the gradient only rounding is left.
        size = max(size, 1.0) if name == "gradient" else size
        np.testing.assert_allclose(found, truth[name], rtol=0, atol=digits * size, err_msg=name)


def test_a_memory_mapped_array_is_not_copied(mapped):
    train = Dataset(mapped, BINARY)
    assert is_mapped(train.x)
    assert np.shares_memory(train.x, mapped)
    model = logistic(mapped)
    assert np.shares_memory(model.train.x, mapped)
    assert np.shares_memory(model.points.tensors[0], mapped)


def test_a_view_of_a_memory_mapped_array_is_one(mapped):
    assert is_mapped(mapped[2:, ::2])
    assert is_mapped(np.asarray(mapped))
    assert isinstance(mapped._mmap, mmap.mmap)
    assert not is_mapped(np.array(mapped))


def test_single_points_are_not_drawn_from_a_memory_mapped_array(mapped):
    model = MODELS["binary"](mapped)
    with pytest.raises(ValueError, match=r"use ConjugateGradient\(\) or Exact\(\)"):
        model.influence_on_loss(*TEST, solver=Lissa(scale=10, recursion_depth=10))


def test_large_arrays_are_read_in_blocks_and_recursions_draw_from_them(monkeypatch):
    truth = MODELS["binary"](PROBLEM.x)
    monkeypatch.setattr("influence.linear.points.LinearPoints.large", 0)
    model = MODELS["binary"](PROBLEM.x)
    assert isinstance(model.scans.matrix[0], RowBlocks)
    settings = {"solver": Lissa(scale=2, recursion_depth=50, batch_size=20)}
    elsewhere = model.parameters + 1.0
    for theta in (model.parameters, elsewhere):
        truth.parameters = model.parameters = theta
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a short recursion; no minimum
            expected = truth.influence_on_loss(*TEST, **settings)
            found = model.influence_on_loss(*TEST, **settings)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("constant", [0.0, 2.0])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, "columns"])
def test_blocks_are_the_rows(kind, constant, dtype):
    x = np.arange(60).reshape(12, 5)
    x = np.asfortranarray(x.astype(float)) if kind == "columns" else x.astype(kind)
    blocks = RowBlocks(x, constant)
    truth = np.column_stack([x, np.full(12, constant)]) if constant else x.astype(float)
    assert blocks.shape == truth.shape
    columns = np.random.default_rng(0).standard_normal((truth.shape[1], 3)).astype(dtype)
    weights = np.linspace(1, 2, 12).astype(dtype)
    seen = 0
    for where, block in blocks.split_blocks(dtype, 0.5, 5):
        rows, seen = truth[where] / 2, seen + len(truth[where])
        np.testing.assert_allclose(block @ columns, rows @ columns, rtol=1e-5)
        back = block.back(weights[where][:, np.newaxis])
        np.testing.assert_allclose(back, rows.T @ weights[where][:, np.newaxis], rtol=1e-5)
        joined = block.joined(np.empty(rows.shape, dtype), weights[where])
        np.testing.assert_allclose(joined, rows * weights[where][:, np.newaxis], rtol=1e-5)
    assert seen == 12
    kept = [block for _, block in blocks.blocks(dtype, 0.5, 5)]  # none is written over
    np.testing.assert_allclose(np.concatenate(kept), truth / 2, rtol=1e-6)
    np.testing.assert_array_equal(blocks.numpy(), truth)
    np.testing.assert_array_equal(blocks[3:7].numpy(), truth[3:7])
