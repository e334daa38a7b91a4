"""What an influence can be on: see ``GenericNeuralNet.influence_on``."""

from influence.objective.targets import (
    Coefficient,
    Logit,
    Loss,
    Margin,
    Metric,
    Probability,
    Target,
)

__all__ = ["Coefficient", "Logit", "Loss", "Margin", "Metric", "Probability", "Target"]
