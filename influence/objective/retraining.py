"""A recipe trained again and again, on parts of the training points: resumed, and in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.data.files import fingerprint, load_checkpoint, save_checkpoint
from influence.data.types import File, Inputs
from influence.objective.sweeps import sweep
from influence.solvers.solution import SolverError

# (the training indices to train on, a seed) -> a number of each test point [m]. It may have a
# ``key``, a text that says what it depends on.
Recipe = Callable[[np.ndarray, int], Any]
# How near a training has to come to what a file says it gave.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6


def retrained(
    recipe: Recipe,
    units: Sequence[tuple[np.ndarray, int]],
    *,
    jobs: int | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> np.ndarray:
    """What ``recipe(kept, seed)`` gives for each of k ``units``: [k, m], float64.

    Args:
        recipe: trains on the ``kept`` points [s] with a seed, and gives a number of each test
            point, such as its loss: [m].
        units: the (kept, seed) of each training.
        jobs: processes that train side by side with a thread each, −1 for one a core; None asks
            joblib's ambient backend, and without one trains here. The answer is the same for any
            number.
        checkpoint: a file that every finished training is saved to, and that is read from after a
            kill, for more units, or for others. Where the recipe has no ``key``, the first training
            that the file has is done again, to see that it is of this recipe.
        progress: show a progress bar.

    Raises:
        ValueError: the recipe does not give a vector of finite numbers, of one length; or another
            than the file has; or it cannot be sent to other processes.

    Examples:
        >>> import numpy as np
        >>> from influence.objective.retraining import retrained
        >>> y = np.array([1.0, 2.0, 6.0])
        >>> mean = lambda kept, seed: [y[kept].mean()]
        >>> retrained(mean, [(np.array([0, 1]), 0), (np.array([1, 2]), 0)]).tolist()
        [[1.5], [4.0]]
    """
    names = [fingerprint(np.asarray(kept, np.int64), repr(int(seed))) for kept, seed in units]
    key = getattr(recipe, "key", "")
    saved = load_checkpoint(checkpoint, key)
    done = {} if saved is None else dict(zip(saved["names"].tolist(), saved["values"]))
    if not key:
        _check_recipe(recipe, units, names, done, checkpoint)
    todo = [(name, unit) for name, unit in zip(names, units) if name not in done]
    results = sweep(lambda unit: np.asarray(recipe(*unit)), [unit for _, unit in todo], jobs=jobs)
    with tqdm(
        total=len(units),
        initial=len(units) - len(todo),
        desc="retraining",
        disable=None if progress else True,
    ) as bar:
        for number, result in results:
            name, (kept, _) = todo[number]
            done[name] = _vector(result, len(kept), done)
            if checkpoint is not None:
                values = np.stack(list(done.values()))
                save_checkpoint(checkpoint, key, names=list(done), values=values)
            bar.update()
    return np.stack([done[name] for name in names])


class Refits:
    """The refits of a fitted model of the library as a recipe: without the points that are not
    kept, from its present θ, whatever the seed.

    Args:
        model: a ``GenericNeuralNet``, fitted.
        x_test, y_test: [m] test points.

    Attributes:
        key: of the model, its data and the test points.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.objective.retraining import Refits
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> Refits(model, [[1.5]], [1])([0, 1, 2, 3], 0).round(3).tolist()
        [0.106]
    """

    def __init__(self, model: Any, x_test: Inputs, y_test: ArrayLike) -> None:
        self._model, self._test = model, (x_test, y_test)
        # Of its data and objective: their losses and gradient.
        losses = model.scans.losses("normal", model.tensors).numpy()
        parts = model.parameters, losses, model.gradient(), model.losses(*self._test)
        self.key = fingerprint(type(model).__name__, *parts)

    def __call__(self, kept: ArrayLike, seed: int) -> np.ndarray:
        removed = np.setdiff1d(np.arange(len(self._model.train)), kept)
        try:
            return self._model.refit(removed).losses(*self._test)
        except (ValueError, SolverError) as error:
            raise ValueError(
                f"The model cannot be refitted to {np.size(kept)} of its points: {error}"
            ) from error


def _check_recipe(recipe, units, names, done, path):
    """Raise a ValueError where the file was not made by this recipe."""
    for name, (kept, seed) in zip(names, units):
        if name in done:
            again = _vector(recipe(kept, seed), len(kept), {})
            if again.shape != done[name].shape or not np.allclose(
                again, done[name], _RELATIVE, _ABSOLUTE
            ):
                raise ValueError(
                    f"{path} is of another recipe or of other test points, or the recipe does not "
                    f"give the same numbers for the same seed: a training that it has was done "
                    f"again, and differs. Name another file."
                )
            return


def _vector(result, size, done):
    vector = np.asarray(result, np.float64)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(
            f"A recipe must give a finite number of each test point, [m]; after training on "
            f"{size} points it gave an array of shape {vector.shape}"
            + ("." if np.isfinite(vector).all() else " with numbers that are not finite.")
        )
    others = next((len(each) for each in done.values()), len(vector))
    if len(vector) != others:
        raise ValueError(f"A recipe gave {len(vector)} numbers after one training, not {others}.")
    return vector
