"""Points as a scikit-learn estimator, or a pipeline that ends in one, is given them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike

from influence.data.types import Inputs, PointTensors, Tensors
from influence.linear.weighted import WeightedPoints
from influence.sklearn_models.estimators import encode_labels
from influence.sklearn_models.tables import check_columns, numbers


class SklearnPoints(WeightedPoints):
    """Test points go through the pipeline's transformers, and labels are the estimator's.

    Args:
        model: a ``SklearnModel``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(
            model.train, model.dtype, model.label_dtype, model._check_labels, model.example_weights
        )
        self._model = model

    def checked(self, x: Inputs, labels: ArrayLike, x_name: str, labels_name: str) -> PointTensors:
        model = self._model
        labels = encode_labels(labels, model._classes, model._terms.codes, labels_name)
        return super().checked(self._transformed(x, x_name), labels, x_name, labels_name)

    def inputs(self, x: Inputs, name: str) -> Tensors:
        return super().inputs(self._transformed(x, name), name)

    def _transformed(self, x, name):
        return transformed(x, self._model.estimator, self._model._transform, name)


def transformed(
    x: Inputs, estimator: Any, transform: Callable[[Inputs], Inputs] | None, name: str
) -> Inputs:
    """Points as the last step is given them, a matrix of the columns that it knows."""
    if transform is not None:
        return numbers(transform(x))
    check_columns(x, estimator, name)
    return numbers(x)
