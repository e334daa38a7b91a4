"""Tables of pandas, polars and Arrow in, and the names of their rows out."""

import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from influence import from_sklearn

X, Y = load_diabetes(return_X_y=True, as_frame=True)
X = X.iloc[:80].set_axis([f"patient {i}" for i in range(80)])
Y = Y.iloc[:80].set_axis(X.index)
TRAIN, TEST = slice(0, 70), slice(70, 80)
AS = {
    "pandas": lambda x: x,
    "polars": pl.from_pandas,
    "arrow": lambda x: pa.Table.from_pandas(x, preserve_index=False),
    "arrays": np.asarray,
}


def column(kind, y):
    """y [n] as that kind of table has its columns."""
    if kind == "arrow":
        return pa.chunked_array([pa.array(y.to_numpy())])
    return pl.Series(y.to_numpy()) if kind == "polars" else y


@pytest.mark.parametrize("kind", AS)
@pytest.mark.parametrize("through", ["estimator", "pipeline", "search"])
def test_a_table_is_its_numbers(kind, through):
    estimator = {
        "estimator": Ridge(alpha=0.1),
        "pipeline": make_pipeline(StandardScaler(), Ridge(alpha=0.1)),
        "search": GridSearchCV(Ridge(), {"alpha": [0.1]}, cv=2),
    }[through]
    expected = from_sklearn(
        estimator.fit(X[TRAIN].to_numpy(), Y[TRAIN]), X[TRAIN].to_numpy(), Y[TRAIN]
    )
    scores = expected.influence_on_loss(X[TEST].to_numpy(), Y[TEST])
    x, y = AS[kind](X[TRAIN]), column(kind, Y[TRAIN])
    x_test, y_test = AS[kind](X[TEST]), column(kind, Y[TEST])
    weights = column(kind, pd.Series(np.ones(70)))
    model = from_sklearn(clone(estimator).fit(x, y), x, y, weights)
    np.testing.assert_allclose(model.influence_on_loss(x_test, y_test), scores, rtol=1e-9)
    np.testing.assert_allclose(model.predict(x_test), expected.predict(X[TEST].to_numpy()))
    if through == "estimator" and kind != "arrays":
        assert model.parameter_names == [*X.columns, "intercept"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_columns_in_another_order_are_refused(kind):
    x, turned = AS[kind](X[TRAIN]), AS[kind](X[X.columns[::-1]])
    model = from_sklearn(Ridge().fit(x, Y[TRAIN]), x, Y[TRAIN])
    with pytest.raises(ValueError, match="x_test must have the columns that Ridge was fitted on, "):
        model.influence_on_loss(turned, Y)
    with pytest.raises(ValueError, match="x must have the columns that Ridge was fitted on, in"):
        model.predict(turned)
    with pytest.raises(ValueError, match="X must have the columns that Ridge was fitted on, in"):
        from_sklearn(model.estimator, turned, Y)
    other = AS[kind](X.rename(columns={"bmi": "BMI"}))
    with pytest.raises(ValueError, match="X must have the columns"):
        from_sklearn(model.estimator, other, Y)


def test_a_refit_knows_the_columns_too():
    model = from_sklearn(Ridge().fit(X[TRAIN], Y[TRAIN]), X[TRAIN], Y[TRAIN])
    refitted = model.refit(3)
    assert refitted.parameter_names == model.parameter_names
    with pytest.raises(ValueError, match="must have the columns that Ridge was fitted on"):
        refitted.losses(X[TEST].iloc[:, ::-1], Y[TEST])


def test_the_index_is_in_the_answer():
    y = np.where(Y > 150, "ill", "well")
    model = from_sklearn(LogisticRegression(tol=1e-8).fit(X[TRAIN], y[TRAIN]), X[TRAIN], y[TRAIN])
    scores = model.influence_on_loss(X[TEST], y[TEST])
    table = model.as_frame(scores, X[TEST])
    assert table.index.equals(X.index[TEST])
    assert table.columns.equals(X.index[TRAIN])
    np.testing.assert_array_equal(table.loc["patient 73", "patient 5"], scores[3, 5])
    selfs = model.self_influence()
    assert model.as_frame(selfs).idxmax() == f"patient {selfs.argmax()}"
    # Of the parameters there are names, too.
    dfbetas = pd.DataFrame(model.dfbetas(), model.index, model.parameter_names)
    assert dfbetas.loc["patient 3", "bmi"] == model.dfbetas()[3, list(X.columns).index("bmi")]
    refit = model.refit([0, 2])
    assert list(refit.index[:3]) == ["patient 1", "patient 3", "patient 4"]
    assert refit.as_frame(refit.self_influence()).index.equals(X.index[TRAIN].delete([0, 2]))
    # One row of a table is one point.
    one = model.influence_on_loss(X.iloc[73], y[73])
    np.testing.assert_allclose(one[0], scores[3])
    with pytest.raises(ValueError, match="x_test must have the columns"):
        model.influence_on_loss(X.iloc[73][::-1], y[73])
    # What has no index is counted.
    plain = from_sklearn(model.estimator, X[TRAIN].to_numpy(), y[TRAIN])
    assert plain.as_frame(scores).columns.tolist() == list(range(70))


def test_truth_values_and_gaps():
    x = X[TRAIN].assign(sex=X.sex > 0, count=pd.array(np.arange(70), "Int64"))
    model = from_sklearn(Ridge().fit(x, Y[TRAIN]), x, Y[TRAIN])
    np.testing.assert_allclose(model.predict(x), model.estimator.predict(x))
    x.iloc[3, -1] = pd.NA
    with pytest.raises(ValueError, match="x_test must be finite|x_test must be numbers"):
        model.influence_on_loss(x, Y[TRAIN])


def test_columns_of_words_in_a_pipeline():
    x = X[TRAIN].assign(ward=np.resize(["north", "south", "west"], 70))
    to_numbers = make_column_transformer((OneHotEncoder(), ["ward"]), remainder="passthrough")
    pipeline = make_pipeline(to_numbers, Ridge()).fit(x, Y[TRAIN])
    model = from_sklearn(pipeline, x, Y[TRAIN])
    np.testing.assert_allclose(model.predict(x), pipeline.predict(x))
    assert model.as_frame(model.self_influence()).index[0] == "patient 0"


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name in ("polars", "pyarrow", "statsmodels", "dask", "skops"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
from sklearn.linear_model import Ridge
from influence import from_sklearn
X, y = [[0.0], [1.0], [3.0]], [0.0, 1.5, 2.0]
print(from_sklearn(Ridge().fit(X, y), X, y).self_influence().shape)
"""


@pytest.mark.slow
def test_none_of_them_has_to_be_there():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.stdout.strip() == "(3,)", done.stderr
