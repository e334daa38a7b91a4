"""Influence functions for TensorFlow models: which training points made it predict this?

Koh & Liang, *Understanding Black-box Predictions via Influence Functions* (ICML 2017).
"""

from influence import targets
from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.gauss_newton import GaussNewton
from influence.curvature.operator import HessianOperator
from influence.data.dataset import Dataset
from influence.fitting.adam import Adam, AdamState
from influence.keras_models.model import KerasModel
from influence.models.all_cnn_c import AllCNNC
from influence.models.inception_model import BinaryInceptionModel
from influence.models.logistic_regression import BinaryLogisticRegression, LogisticRegression
from influence.models.smooth_hinge import SmoothHinge
from influence.objective.datamodeling import (
    DatamodelingScore,
    Retrainings,
    retrain_on_subsets,
)
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.validation import Validation
from influence.sklearn_models.adapter import from_sklearn
from influence.solvers.block_conjugate_gradient import BlockConjugateGradient
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.exact import Exact
from influence.solvers.lissa import Lissa
from influence.solvers.nystrom import nystrom
from influence.solvers.solution import Solution, SolverError, SolverWarning
from influence.studies.damping import DampingChoice, choose_damping
from influence.studies.datamodeling import (
    Brittleness,
    RemovalCurve,
    counterfactual_brittleness,
    linear_datamodeling_score,
    removal_curve,
)
from influence.studies.leave_one_out import LeaveOneOut, leave_one_out
from influence.studies.network_retraining import GradientFlow, Proximal
from influence.studies.tracin import tracin

__all__ = [
    "Adam",
    "AdamState",
    "AllCNNC",
    "AutodiffHessian",
    "BinaryInceptionModel",
    "BinaryLogisticRegression",
    "BlockConjugateGradient",
    "Brittleness",
    "ConjugateGradient",
    "DampingChoice",
    "DatamodelingScore",
    "Dataset",
    "Exact",
    "GaussNewton",
    "GenericNeuralNet",
    "GradientFlow",
    "HessianOperator",
    "KerasModel",
    "LeaveOneOut",
    "Lissa",
    "LogisticRegression",
    "Proximal",
    "RemovalCurve",
    "Retrainings",
    "SmoothHinge",
    "Solution",
    "SolverError",
    "SolverWarning",
    "Validation",
    "choose_damping",
    "counterfactual_brittleness",
    "from_sklearn",
    "leave_one_out",
    "linear_datamodeling_score",
    "nystrom",
    "removal_curve",
    "retrain_on_subsets",
    "targets",
    "tracin",
]
