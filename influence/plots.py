"""Pictures of influences: functions that draw on Matplotlib axes, or make some, and return them."""

from influence.drawing.images import image_grid
from influence.drawing.scores import (
    leverage_against_influence,
    predicted_against_actual,
    removal_curve,
    scores_by_rank,
)

__all__ = [
    "image_grid",
    "leverage_against_influence",
    "predicted_against_actual",
    "removal_curve",
    "scores_by_rank",
]
