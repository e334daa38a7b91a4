"""The closed forms of ``linear.functions`` for sparse points, which stay sparse."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from influence.data.types import DType
from influence.linear.array_functions import ArrayFunctions
from influence.linear.functions import LinearLoss


class SparseFunctions(ArrayFunctions):
    """``ArrayFunctions`` of a CSR matrix [n, d], all of whose rows are one block.

    Args:
        loss, dtype, scale: as there.
    """

    def __init__(self, loss: LinearLoss, dtype: DType, scale: float) -> None:
        super().__init__(loss, dtype, scale)
        self._convert = functools.lru_cache(maxsize=2)(self._convert_once)

    def _convert_once(self, key):
        x = key.x.astype(self._dtype) * self._dtype.type(self._scale)
        # Both ways of going through the matrix are a product with a CSR matrix.
        return x.tocsr(), x.T.tocsr()

    def _blocks(self, x: Any) -> Iterator[tuple[slice, Any, Any]]:
        yield slice(None), *self._convert(_ByIdentity(x))

    def _back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        return back @ columns

    def _squared_back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        return back.multiply(back) @ columns

    def _gram(self, forward: Any, back: Any, weights: np.ndarray) -> np.ndarray:
        return (back @ forward.multiply(weights[:, np.newaxis]).tocsr()).toarray()

    def _dense(self, forward: scipy.sparse.csr_array) -> np.ndarray:
        return forward.toarray()


class _ByIdentity:
    """A matrix as the key of a cache: SciPy's have no hash."""

    def __init__(self, x):
        self.x = x

    def __hash__(self):
        return id(self.x)

    def __eq__(self, other):
        return self.x is other.x
