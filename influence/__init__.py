"""Influence functions for TensorFlow models: which training points made it predict this?

Koh & Liang, *Understanding Black-box Predictions via Influence Functions* (ICML 2017).
"""

from influence.adam import Adam, AdamState
from influence.all_cnn_c import AllCNNC
from influence.autodiff_hessian import AutodiffHessian
from influence.dataset import Dataset
from influence.gauss_newton import GaussNewton
from influence.generic_neural_net import GenericNeuralNet
from influence.hessian import HessianOperator
from influence.inception_model import BinaryInceptionModel
from influence.keras_model import KerasModel
from influence.logistic_regression import BinaryLogisticRegression, LogisticRegression
from influence.network_retraining import GradientFlow, Proximal
from influence.retraining import LeaveOneOut, leave_one_out
from influence.sklearn_adapter import from_sklearn
from influence.smooth_hinge import SmoothHinge
from influence.solution import Solution, SolverError, SolverWarning
from influence.solvers import ConjugateGradient, Exact, Lissa
from influence.validation import Validation

__all__ = [
    "Adam",
    "AdamState",
    "AllCNNC",
    "AutodiffHessian",
    "BinaryInceptionModel",
    "BinaryLogisticRegression",
    "ConjugateGradient",
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
    "SmoothHinge",
    "Solution",
    "SolverError",
    "SolverWarning",
    "Validation",
    "from_sklearn",
    "leave_one_out",
]
