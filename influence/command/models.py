"""A fitted scikit-learn estimator from a file, and the columns that it takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from influence.command.tables import as_numbers, missing_columns

_PICKLES = (".joblib", ".pkl", ".pickle")


def load_estimator(path: Path, trust: bool) -> Any:
    """What a file of skops or joblib has in it.

    Args:
        path: a .skops, or a .joblib, .pkl or .pickle.
        trust: whether code of the file may run: all of a pickle, types unknown to skops.

    Raises:
        ValueError: there is no such file, it is not trusted, it cannot be read, or what it has is
            not a fitted estimator.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix in _PICKLES:
        if not trust:
            raise ValueError(
                f"{path} is a pickle, and to read a pickle is to run whatever program its writer "
                f"put into it: give --trust if you know who wrote it, or save the model with skops."
            )
        estimator = _read(path, joblib.load)
    elif path.suffix == ".skops":
        estimator = _read_skops(path, trust)
    else:
        raise ValueError(
            f"{path} is no model that can be read: give a scikit-learn estimator saved by skops "
            f"(.skops) or joblib ({', '.join(_PICKLES)}), or a Keras model (.keras)."
        )
    if not isinstance(estimator, BaseEstimator):
        raise ValueError(
            f"{path} has a {type(estimator).__name__} in it, not an estimator of scikit-learn."
        )
    check_is_fitted(estimator)
    return estimator


def fitted_columns(estimator: Any, x: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns that an estimator was fitted on, in its order.

    Raises:
        ValueError: columns are missing, or it was fitted on another number of them.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        missing_columns(list(names), x, path, "the model")
        return x[list(names)]
    count = getattr(estimator, "n_features_in_", x.shape[1])
    if count != x.shape[1]:
        raise ValueError(
            f"The model was fitted on {count} columns without names, and {path} has "
            f"{x.shape[1]} beside the target: give it those, in their order."
        )
    return x


def as_fitted(estimator: Any, x: pd.DataFrame, path: Path) -> Any:
    """Its columns as it was given them: a table, or an array if it was fitted on one.

    Raises:
        ValueError: it was fitted on an array, and a column is text.
    """
    if hasattr(estimator, "feature_names_in_"):
        return x
    return np.column_stack([as_numbers(x[name], path).to_numpy() for name in x.columns])


def _read_skops(path, trust):
    if importlib.util.find_spec("skops") is None:
        raise ValueError(f"To read {path} skops is needed: install influence[skops].")
    import skops.io  # optional

    unknown = _read(path, lambda path: skops.io.get_untrusted_types(file=path))
    if unknown and not trust:
        raise ValueError(
            f"{path} has types in it that skops does not know to be harmless, such as "
            f"{unknown[0]}: give --trust if you know who wrote it."
        )
    return _read(path, lambda path: skops.io.load(path, trusted=unknown))


def _read(path, load):
    try:
        return load(path)
    except Exception as error:  # what code of the file may raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be read as a model ({reason[0].rstrip('.')}).") from None
