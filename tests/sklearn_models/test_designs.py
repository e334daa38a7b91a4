"""Equivalent designs have one answer, that of the refits; no minimum is said."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier

import influence
from influence import Dataset, SolverError, from_sklearn
from influence.objective.minimum import ConvergenceWarning

# Longley (1967): deflator, GNP, unemployed, armed forces, population, year; employed.
LONGLEY = np.array(
    [
        [83.0, 234289, 2356, 1590, 107608, 1947, 60323],
        [88.5, 259426, 2325, 1456, 108632, 1948, 61122],
        [88.2, 258054, 3682, 1616, 109773, 1949, 60171],
        [89.5, 284599, 3351, 1650, 110929, 1950, 61187],
        [96.2, 328975, 2099, 3099, 112075, 1951, 63221],
        [98.1, 346999, 1932, 3594, 113270, 1952, 63639],
        [99.0, 365385, 1870, 3547, 115094, 1953, 64989],
        [100.0, 363112, 3578, 3350, 116219, 1954, 63761],
        [101.2, 397469, 2904, 3048, 117388, 1955, 66019],
        [104.6, 419180, 2822, 2857, 118734, 1956, 67857],
        [108.4, 442769, 2936, 2798, 120445, 1957, 68169],
        [110.8, 444546, 4681, 2637, 121950, 1958, 66513],
        [112.6, 482704, 3813, 2552, 123366, 1959, 68655],
        [114.2, 502601, 3931, 2514, 125368, 1960, 69564],
        [115.7, 518173, 4806, 2572, 127852, 1961, 69331],
        [116.9, 554894, 4007, 2827, 130081, 1962, 70551],
    ]
)


def designs(seed, n=150):
    """The same regression five times, of which the first alone is not singular."""
    random = np.random.default_rng(seed)
    group, z = np.r_[0, 1, 2, 0, 1, 2, random.integers(0, 3, n - 6)], random.normal(size=(n, 2))
    onehot = np.eye(3)[group]
    regular = np.c_[onehot[:, 1:], z]
    return z[:, 0] + random.normal(size=n), {
        "regular": regular,
        "one-hot beside an intercept": np.c_[onehot, z],
        "a constant column": np.c_[regular, np.full(n, 7.0)],
        "a column twice": np.c_[regular, z[:, 1]],
        "other units": np.c_[onehot * 0.01, z * 1000],
    }


@pytest.mark.parametrize("seed", range(8))
def test_least_squares_is_refitting_in_every_design(seed):
    y, of_name = designs(seed)
    chosen = [0, 5, 50]
    regular = of_name["regular"]
    before = (LinearRegression().fit(regular, y).predict(regular[:4]) - y[:4]) ** 2
    truth = [
        (LinearRegression().fit(np.delete(regular, i, 0), np.delete(y, i)).predict(regular[:4]))
        for i in chosen
    ]
    truth = (np.array(truth).T - y[:4, np.newaxis]) ** 2 - before[:, np.newaxis]
    first = []
    for x in of_name.values():
        estimator = LinearRegression().fit(x, y)
        model = from_sklearn(estimator, x, y)
        how = {"order": "newton", "train_indices": chosen, "strict": True}
        scores = model.influence_on_loss(x[:4], y[:4], **how)
        np.testing.assert_allclose(scores, truth, rtol=1e-7, atol=1e-9)
        first.append(model.influence_on_loss(x[:4], y[:4], strict=True))
        np.testing.assert_allclose(first[-1], first[0], rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore::scipy.optimize._linesearch.LineSearchWarning")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_logistic_regression_has_one_answer_in_every_design(seed, classes):
    y, of_name = designs(seed)
    labels = (y > 0) * 1 + (y > 0.5) * (classes - 2)
    answers, own = [], []
    for name, x in of_name.items():
        if name != "other units":  # which scikit-learn does not fit
            settings = {"C": np.inf, "solver": "newton-cg", "tol": 1e-10, "max_iter": 1000}
            estimator = LogisticRegression(**settings).fit(x, labels)
            model = from_sklearn(estimator, x, labels)
            answers.append(model.influence_on_loss(x[:4], labels[:4], order="newton", strict=True))
        train = Dataset(np.c_[x, np.ones(len(x))], labels)
        model = influence.LogisticRegression(train, 0.0, dtype="float64").fit()
        own.append(model.influence_on_loss(train.x[:4], labels[:4], strict=True))
    for scores in (answers, own):
        for other in scores[1:]:
            np.testing.assert_allclose(other, scores[0], rtol=1e-6, atol=1e-7)


def test_longleys_data_have_their_digits_and_no_alarm():
    x, y = LONGLEY[:, :-1], LONGLEY[:, -1]
    estimator = LinearRegression().fit(x, y)
    certified = [15.0618722714, -0.0358191792926, -2.02022980382, -1.03322686717]
    np.testing.assert_allclose(estimator.coef_[:4], certified, rtol=1e-7)
    model = from_sklearn(estimator, x, y)
    scores = model.influence_on_loss(x, y, order="newton", strict=True)
    before = (estimator.predict(x) - y) ** 2
    for i in range(16):
        refit = LinearRegression().fit(np.delete(x, i, 0), np.delete(y, i))
        change = (refit.predict(x) - y) ** 2 - before
        np.testing.assert_allclose(scores[:, i], change, atol=1e-6 * np.abs(change).max())


def test_what_the_points_do_not_determine_is_refused():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(10, 20)), random.normal(size=10)
    model = from_sklearn(LinearRegression().fit(x, y), x, y)
    np.testing.assert_allclose(model.influence_on_loss(x[:2], y[:2]), 0, atol=1e-12)
    for order in ("first", "newton"):
        with pytest.raises(SolverError, match="not in its range"):
            model.influence_on_loss(random.normal(size=(2, 20)), y[:2], order=order)
    with pytest.raises(SolverError, match="The leverage of training point 0 is at least 1"):
        model.influence_on_loss(x[:2], y[:2], order="newton")


def test_a_point_that_alone_determines_a_direction_is_refused():
    y, of_name = designs(0)
    x = np.c_[of_name["one-hot beside an intercept"], np.eye(len(y))[3]]
    model = from_sklearn(LinearRegression().fit(x, y), x, y)
    with pytest.raises(SolverError, match="The leverage of training point 3 is at least 1"):
        model.influence_on_loss(x[:2], y[:2], order="newton")
    with pytest.raises(SolverError, match="The leverage of set 1 is at least 1"):
        model.parameter_changes([[0, 1], [3, 4]])
    model.influence_on_loss(x[:2], y[:2], order="newton", train_indices=[0, 1, 4])


def separable(flip):
    random = np.random.default_rng(1)
    x = random.normal(size=(30, 2))
    y = (x[:, 0] > 0).astype(int)
    y[:flip] = 1 - y[:flip]
    return x, y


ESTIMATORS = {
    "C = inf": (LogisticRegression(C=np.inf), "has no single minimum"),
    "newton": (
        LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=9999),
        "has no single minimum",
    ),
    "C = 1e12": (LogisticRegression(C=1e12), "has not converged"),
    "hinge": (SGDClassifier(penalty=None, random_state=0), "has no single minimum"),
    "squared hinge": (
        SGDClassifier("squared_hinge", penalty=None, random_state=0),
        "has no single minimum",
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize(("estimator", "message"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_no_minimum_is_said(estimator, message):
    x, y = separable(flip=0)
    with pytest.warns(ConvergenceWarning, match=message):
        from_sklearn(estimator.fit(x, y), x, y)


def test_a_minimum_is_no_alarm():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = separable(flip=5)
        for estimator in (LogisticRegression(C=np.inf, tol=1e-8), LogisticRegression(C=1e12)):
            from_sklearn(estimator.fit(x, y), x, y)
        x, y = separable(flip=0)
        for estimator in (
            LogisticRegression(),
            LogisticRegression(C=1e4, solver="newton-cholesky"),
        ):
            from_sklearn(estimator.fit(x, y), x, y)
        from_sklearn(LinearRegression().fit(x, y), x, y)
