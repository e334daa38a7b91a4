"""The product written by hand, against automatic differentiation of the same network."""

import numpy as np
import pytest

from influence import AllCNNC, Dataset
from influence.curvature.autodiff import AutodiffHessian
from influence.models.cnn_hessian import CNNHessian
from tests.models.test_all_cnn_c import images


def at_random(strides, side, dtype="float64", rows=False, **settings):
    """A network with 3 channels, 3 classes and 7 images, away from every optimum."""
    x, labels = images(7, side)
    x = x.reshape(7, -1) if rows else x
    settings = {"channels": 3, "strides": strides, "dtype": dtype, **settings}
    model = AllCNNC(Dataset(x, labels), 0.05, 3, **settings)
    noise = np.random.default_rng(1).standard_normal(model.num_parameters)
    model.parameters = model.parameters + 0.1 * noise
    return model


def block_for(model, columns=2):
    return np.random.default_rng(2).standard_normal((model.num_parameters, columns))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strides", "side", "rows"),
    [
        # The first two layers by squares of pixels; and an odd side, where they cannot be.
        ((1, 2, 1, 2, 1), 28, False),
        ((1, 2), 10, True),
        ((1, 2), 11, True),
        # Pixels that a stride leaves out, at the images and further on.
        ((2, 1), 12, False),
        ((1, 3), 12, False),
        ((), 4, False),
    ],
)
def test_products_are_those_of_automatic_differentiation(strides, side, rows):
    # Batches of 3, 3 and 1.
    model = at_random(strides, side, rows=rows, batch_size=3)
    operator, block = model.hessian(), block_for(model)
    assert isinstance(operator, CNNHessian)
    truth = AutodiffHessian(model) @ block
    np.testing.assert_allclose(operator @ block, truth, rtol=0, atol=1e-10)
    np.testing.assert_allclose(operator @ block[:, 0], truth[:, 0], rtol=0, atol=1e-10)


def test_products_in_single_precision():
    model, double = (at_random((1, 2), 14, dtype) for dtype in ("float32", "float64"))
    double.parameters = model.parameters
    block = block_for(model)
    product, truth = model.hessian() @ block, double.hessian() @ block
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


@pytest.mark.slow
def test_products_are_those_of_the_matrix():
    model = at_random((1, 2), 14)
    operator = model.hessian() + 0.3
    block = block_for(model)
    np.testing.assert_allclose(operator @ block, operator.dense() @ block, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_the_matrix_of_many_images_in_single_precision():
    # All of their pixels have one sign: a convolution that sums over them at once loses 3e-4.
    x, labels = np.ones((2500, 28, 28)), np.arange(2500) % 2
    settings = {"channels": 1, "strides": (1, 2)}
    model, double = (
        AllCNNC(Dataset(x, labels), 0.01, 2, dtype=dtype, **settings)
        for dtype in ("float32", "float64")
    )
    double.parameters = model.parameters
    matrix, truth = model.hessian().dense(), double.hessian().dense()
    np.testing.assert_allclose(matrix, truth, rtol=0, atol=1e-4 * np.abs(truth).max())


@pytest.mark.slow
def test_products_on_some_rows_are_those_of_the_points_alone():
    model = at_random((1, 2), 14)
    block = block_for(model)
    chosen = [5, 2, 2]
    alone = AllCNNC(
        Dataset(model.train.x[chosen], model.train.labels[chosen]), 0.05, 3, **model._settings
    ).with_parameters(model.parameters)
    truth = AutodiffHessian(alone) @ block
    product = (model.hessian().on(chosen) @ block).numpy()
    np.testing.assert_allclose(product, truth, rtol=0, atol=1e-10)


def test_products_where_every_unit_is_saturated():
    model = at_random((1, 2), 14)
    model.parameters = 50 * model.parameters
    block = block_for(model)
    truth = AutodiffHessian(model) @ block
    np.testing.assert_allclose(model.hessian() @ block, truth, rtol=1e-9, atol=1e-10)
