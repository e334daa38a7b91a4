"""Find training labels that are wrong: rank the points, check the first ones, fix, refit.

Section 5.4 of the paper: a point that holds up its own label against all others deserves a look.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from influence.data.dataset import check_indices
from influence.objective.generic_neural_net import GenericNeuralNet


def suspicion(model: GenericNeuralNet) -> dict[str, np.ndarray]:
    """How suspicious every training label is, by three measures [n]: check the largest first.

    - ``influence``: the self-influence ∇L(z_i)ᵀ H⁻¹ ∇L(z_i); for two classes σ²·xᵀH⁻¹x, where
      σ = 1 − p(y|x).
    - ``influence_2017``: the self-influence divided by 1 − p(y|x), so σ·xᵀH⁻¹x. The paper's figure
      used it by mistake (corrected by its authors in 2020). It needs a loss that is −log p(y|x).
    - ``loss``: the training loss.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.studies.label_fixing import suspicion
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])  # the last is wrong
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> {name: int(scores.argmax()) for name, scores in suspicion(model).items()}
        {'influence': 4, 'influence_2017': 4, 'loss': 4}
    """
    losses = model.losses(model.train.x, model.train.labels).astype(np.float64)
    influence = model.self_influence().astype(np.float64)
    wrong = -np.expm1(-losses)
    influence_2017 = np.divide(influence, wrong, out=np.zeros_like(influence), where=wrong > 0)
    return {"influence": influence, "influence_2017": influence_2017, "loss": losses}


def most_suspicious(scores: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` points with the largest scores, the largest first (ties: the first point).

    Examples:
        >>> import numpy as np
        >>> from influence.studies.label_fixing import most_suspicious
        >>> most_suspicious(np.array([0.1, 0.9, 0.5, 0.9]), 3).tolist()
        [1, 3, 2]
    """
    return np.argsort(-scores, kind="stable")[:count]


def fix_and_refit(
    model: GenericNeuralNet,
    checked: ArrayLike,
    true_labels: ArrayLike,
    start: ArrayLike | None = None,
) -> tuple[GenericNeuralNet, int]:
    """Give the ``checked`` points their true labels and fit again.

    Args:
        model: fitted to the labels as they are.
        checked: training points that a person looks at.
        true_labels: [n], what the person would say.
        start: parameters to start the fit from; None takes the model's.

    Returns:
        The fitted model, and how many labels were fixed.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.studies.label_fixing import fix_and_refit
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])  # the last is wrong
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> refitted, fixed = fix_and_refit(model, [4, 0], true_labels=[0, 0, 1, 1, 1])
        >>> fixed, refitted.train.labels.tolist()
        (1, [0, 0, 1, 1, 1])
    """
    checked = check_indices(checked, len(model.train), "checked")
    true_labels = np.asarray(true_labels)
    if true_labels.shape != model.train.labels.shape:
        raise ValueError(
            f"true_labels must be {len(model.train)} labels, one a training point; their shape is "
            f"{true_labels.shape}."
        )
    fixed = int((model.train.labels[checked] != true_labels[checked]).sum())
    refitted = model._clone(model.train.relabelled(checked, true_labels[checked]))
    refitted.parameters = model.parameters if start is None else start
    return refitted.fit(), fixed
