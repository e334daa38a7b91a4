"""The penalty that is chosen, against leaving rows out for real."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from influence.command import fitting
from influence.command.columns import columns_of


def noisy(rows=40, features=6):
    generator = np.random.default_rng(0)
    x = pd.DataFrame(generator.normal(size=(rows, features))).rename(columns="v{}".format)
    return x, x["v0"].to_numpy() + generator.normal(size=rows)


def fit(x, y, kind):
    columns = columns_of(x, Path("t.csv"))
    return fitting.fit_pipeline(x, y, kind, columns)


def left_out_losses(y, kind, features):
    """The mean loss of every penalty by refits without each row."""
    losses = {}
    for penalty in fitting._PENALTIES[kind]:
        if kind == "numbers":
            predicted = cross_val_predict(Ridge(alpha=penalty), features, y, cv=LeaveOneOut())
            losses[penalty] = np.mean((predicted - y) ** 2)
        else:
            estimator = LogisticRegression(C=penalty, solver="newton-cholesky")
            how = {"cv": LeaveOneOut(), "method": "predict_proba"}
            losses[penalty] = log_loss(y, cross_val_predict(estimator, features, y, **how))
    return losses


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_penalty_is_that_of_leave_one_out(kind):
    x, y = noisy()
    y = np.where(y > 0, "up", "down") if kind == "classes" else y
    pipeline, sentence = fit(x, y, kind)
    losses = left_out_losses(y, kind, pipeline[0].transform(x))
    best = min(losses, key=losses.get)
    chosen = pipeline[-1].C if kind == "classes" else pipeline[-1].alpha
    assert chosen == best
    assert f"= {best:g}, of" in sentence
    said = float(sentence.split("leave-one-out (")[1].split(")")[0])
    assert said == pytest.approx(losses[best], rel=0.02)
    assert clone(pipeline).fit(x, y).predict(x).tolist() == pipeline.predict(x).tolist()


def test_of_wide_tables_no_step_takes_the_cube_of_their_columns():
    x, y = noisy(30, 40)
    pipeline, _ = fit(x, np.where(y > 0, "up", "down"), "classes")
    assert pipeline[-1].solver == "lbfgs"
    newton = clone(pipeline[-1]).set_params(solver="newton-cholesky")
    newton.fit(pipeline[0].transform(x), y > 0)
    np.testing.assert_allclose(pipeline[-1].coef_, newton.coef_, atol=1e-5)


def test_of_many_rows_some_of_every_label_choose(monkeypatch):
    monkeypatch.setattr(fitting, "_ROWS_TO_CHOOSE_BY", 10)
    y = np.repeat(["a", "b", "c"], [1, 96, 3])
    rows = fitting._spread(y)
    assert len(rows) == 10
    assert set(y[rows]) == {"a", "b", "c"}
    assert (np.diff(rows) > 0).all()


def test_what_is_left_out_is_said():
    x, y = noisy()
    _, sentence = fit(x.assign(name=[f"row {i}" for i in range(len(x))]), y, "numbers")
    assert "Column 'name' is left out: nearly every row has another text in it." in sentence
