"""Influence functions for TensorFlow models: which training points made it predict this?

Koh & Liang, *Understanding Black-box Predictions via Influence Functions* (ICML 2017).
"""

from influence.dataset import Dataset
from influence.generic_neural_net import GenericNeuralNet
from influence.hessian import AutodiffHessian, HessianOperator
from influence.inception_model import BinaryInceptionModel
from influence.logistic_regression import BinaryLogisticRegression, LogisticRegression
from influence.retraining import LeaveOneOut, leave_one_out
from influence.smooth_hinge import SmoothHinge
from influence.solution import Solution, SolverError, SolverWarning
from influence.solvers import ConjugateGradient, Exact, Lissa

__all__ = [
    "AutodiffHessian",
    "BinaryInceptionModel",
    "BinaryLogisticRegression",
    "ConjugateGradient",
    "Dataset",
    "Exact",
    "GenericNeuralNet",
    "HessianOperator",
    "LeaveOneOut",
    "Lissa",
    "LogisticRegression",
    "SmoothHinge",
    "Solution",
    "SolverError",
    "SolverWarning",
    "leave_one_out",
]
