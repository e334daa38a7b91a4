"""The points of linear models, which may be sparse, or too many for a second copy."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from influence.data.dataset import is_mapped
from influence.data.types import Inputs, Rows
from influence.objective.points import Points


class LinearPoints(Points):
    """Points that stay sparse (CSR) where the training points are; and large or memory-mapped
    arrays that stay as they are, of which the scans read a block of rows at a time.

    Attributes:
        large: bytes of an array up to which a copy as a tensor costs next to nothing.
    """

    large = 2**26

    def input_tensor(self, x: Inputs) -> Rows:
        if not scipy.sparse.issparse(self.train.x):
            array = isinstance(x, np.ndarray)
            if array and (x.nbytes > self.large or is_mapped(x)):
                return x
            return super().input_tensor(x)
        return scipy.sparse.csr_array(x)
