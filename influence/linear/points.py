"""The points of linear models, which may be sparse."""

from __future__ import annotations

import scipy.sparse

from influence.data.types import Inputs, Rows
from influence.objective.points import Points


class LinearPoints(Points):
    """Points that stay sparse (CSR) where the training points are."""

    def input_tensor(self, x: Inputs) -> Rows:
        if not scipy.sparse.issparse(self.train.x):
            return super().input_tensor(x)
        return scipy.sparse.csr_array(x)
