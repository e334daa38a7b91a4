"""How rows are loaded, and what is said where they cannot be, or are not those of before."""

import functools
import gc
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.linear_model import LinearRegression, SGDClassifier

from influence import AllCNNC, BinaryLogisticRegression, Dataset, KerasModel, Lissa, from_sklearn
from influence.sharding import worker
from influence.sharding.rows import FileRows, Folder
from influence.sharding.shards import file_shards, npy_shards, parquet_shards
from tests.sharding.engines import BINARY, PROBLEM, Here, logistic, network, network_model

N = len(BINARY)
TEST = PROBLEM.x[:3] + 0.1, BINARY[:3]


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", PROBLEM.x)
    np.save(tmp_path / "y.npy", BINARY)
    return tmp_path / "x.npy", tmp_path / "y.npy"


def same(sharded, whole):
    for model in (sharded, whole):
        model.fit()
    np.testing.assert_allclose(sharded.parameters, whole.parameters, rtol=1e-10)
    scores = [model.influence_on_loss(*TEST) for model in (sharded, whole)]
    np.testing.assert_allclose(*scores, rtol=1e-9)
    own = [model.self_influence() for model in (sharded, whole)]
    np.testing.assert_allclose(*own, rtol=1e-9)


# Where rows come from.


def few():
    """A model that only says what a row looks like."""
    return BinaryLogisticRegression(Dataset(PROBLEM.x[:9], BINARY[:9]), 0.05, "float64")


def test_npy_files(files):
    same(few().sharded(Here(), npy_shards(*files, 4)), logistic())


def test_a_memory_mapped_array_stays_in_its_file(files):
    x = np.load(files[0], mmap_mode="r")
    executor = Here()
    same(logistic(x=x).sharded(executor, 3), logistic())
    shard = executor.tasks[0][0]
    assert shard.files[0].path == str(files[0])


def test_part_of_a_mapped_array(files):
    x = np.load(files[0], mmap_mode="r")
    model = BinaryLogisticRegression(Dataset(x[10:70], BINARY[10:70]), 0.05, "float64")
    whole = BinaryLogisticRegression(Dataset(PROBLEM.x[10:70], BINARY[10:70]), 0.05, "float64")
    same(model.sharded(Here(), 3), whole)


def test_parquet_row_groups(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {f"x{i}": PROBLEM.x[:, i] for i in range(5)}
    parquet.write_table(arrow.table({"y": BINARY, **columns}), tmp_path / "rows", row_group_size=40)
    shards = parquet_shards(tmp_path / "rows", "y")
    assert len(shards) == 3
    same(few().sharded(Here(), shards), logistic())


def rows(first, last):
    return PROBLEM.x[first:last], BINARY[first:last]


def test_functions_that_load():
    shards = [functools.partial(rows, 0, 50), lambda: rows(50, N)]
    same(few().sharded(Here(), shards), logistic())


def test_sparse_rows():
    x = scipy.sparse.random_array((N, 5), density=0.4, rng=0, format="csr")
    settings = {"weight_decay": 0.05, "dtype": "float64"}
    whole = BinaryLogisticRegression(Dataset(x, BINARY), **settings)
    sharded = BinaryLogisticRegression(Dataset(x, BINARY), **settings).sharded(Here(), 4)
    for model in (sharded, whole):
        model.fit()
    scores = [model.influence_on_loss(x[:3], BINARY[:3]) for model in (sharded, whole)]
    np.testing.assert_allclose(*scores, rtol=1e-9)
    chosen = [
        model.influence_on_loss(x[:3], BINARY[:3], order="newton") for model in (sharded, whole)
    ]
    np.testing.assert_allclose(*chosen, rtol=1e-8)


def pipeline(first, last):
    x, labels = PROBLEM.x[first:last], PROBLEM.labels[first:last]
    return tf.data.Dataset.from_tensor_slices((x, labels)).batch(7)


@pytest.mark.slow
def test_files_of_a_pipeline():
    shards = [functools.partial(pipeline, 0, 40), functools.partial(pipeline, 40, N)]
    sharded = KerasModel(network(), pipeline(0, 9)).sharded(Here(), shards)
    whole = network_model()
    np.testing.assert_allclose(sharded.gradient(), whole.gradient(), rtol=1e-10)
    test = {"x_test": PROBLEM.x[:2], "y_test": PROBLEM.labels[:2]}
    scores = [
        model.influence_on_loss(**test, curvature=model.gauss_newton() + 0.1, train_indices=[80, 1])
        for model in (sharded, whole)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_eight_bit_rows_with_a_scale():
    x = np.random.default_rng(0).integers(0, 256, (N, 2, 3)).astype(np.uint8)
    train = Dataset(x, BINARY, 1 / 255)
    whole = BinaryLogisticRegression(train, 0.05, "float64").fit()
    sharded = BinaryLogisticRegression(train, 0.05, "float64").sharded(Here(), 4).fit()
    np.testing.assert_allclose(sharded.parameters, whole.parameters, rtol=1e-10)


# What follows from a sharded model.


def test_refits_and_steps_without_points():
    sharded, whole = logistic().sharded(Here(), 4).fit(), logistic().fit()
    np.testing.assert_allclose(
        sharded.refit([3, 80]).parameters, whole.refit([3, 80]).parameters, rtol=1e-9
    )
    for order in ("newton", "refit"):
        changes = [
            m.influence_of_sets([[3, 80], [5]], *TEST, order=order) for m in (sharded, whole)
        ]
        np.testing.assert_allclose(*changes, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(sharded.leverage(), whole.leverage(), rtol=1e-9)
    validation = sharded.validate(*TEST, points=3)
    np.testing.assert_allclose(validation.actual, whole.validate(*TEST, points=3).actual, rtol=1e-6)


@pytest.mark.slow
def test_a_shard_of_which_nothing_is_left():
    model = logistic().sharded(Here(), 45).fit().refit([4, 5])
    np.testing.assert_allclose(model.parameters, logistic().fit().refit([4, 5]).parameters, 1e-9)
    assert len(model.train) == N - 2


def test_single_precision_is_that_of_the_model():
    sharded, whole = logistic("float32").sharded(Here(), 4).fit(), logistic("float32").fit()
    scores = sharded.influence_on_loss(*TEST)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, whole.influence_on_loss(*TEST), rtol=1e-3, atol=1e-6)


def test_relative_weights_of_scikit_learn():
    weights = np.random.default_rng(0).uniform(0.5, 2, N)
    fitted = SGDClassifier("log_loss", alpha=0.1, tol=1e-9, max_iter=30_000, random_state=0)
    fitted.fit(PROBLEM.x, BINARY, sample_weight=weights)
    whole = from_sklearn(fitted, PROBLEM.x, BINARY, weights)
    scores = [m.influence_on_loss(*TEST) for m in (whole.sharded(Here(), 3), whole)]
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_diagnostics_of_least_squares():
    y = PROBLEM.x @ np.arange(5) + np.random.default_rng(0).standard_normal(N)
    whole = from_sklearn(LinearRegression().fit(PROBLEM.x, y), PROBLEM.x, y)
    sharded = whole.sharded(Here(), 4)
    for name in ("cooks_distance", "dfbetas", "leave_one_out_losses"):
        answers = [getattr(model, name)() for model in (sharded, whole)]
        np.testing.assert_allclose(*answers, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_weights_scores_by_ekfac_and_frozen_layers_of_keras():
    weights = np.random.default_rng(0).uniform(0.5, 2, N)
    train = PROBLEM.x, PROBLEM.labels, weights
    model = network()
    for variables in (None, model.layers[-1]):
        whole = KerasModel(model, train, variables=variables)
        sharded = whole.sharded(Here(), 3)
        test = {"x_test": PROBLEM.x[:2], "y_test": PROBLEM.labels[:2]}
        for curvature in ("ekfac", "gauss_newton"):
            operators = [getattr(each, curvature)() + 0.1 for each in (sharded, whole)]
            np.testing.assert_allclose(*[each.dense() for each in operators], rtol=1e-9, atol=1e-12)
            pairs = list(zip((sharded, whole), operators))
            scores = [each.influence_on_loss(**test, curvature=c) for each, c in pairs]
            np.testing.assert_allclose(*scores, rtol=1e-8, atol=1e-12)
            own = [each.self_influence(curvature=c) for each, c in pairs]
            np.testing.assert_allclose(*own, rtol=1e-8, atol=1e-12)


def test_some_rows_need_their_shards_only():
    executor = Here()
    model = logistic().sharded(executor, 9).fit()
    model.influence_on_loss(*TEST)
    executor.tasks.clear()
    model.self_influence(train_indices=[0, 3, 89])
    assert [task[0] for task in executor.tasks] == [model.sharding.shards[i] for i in (0, 8)]


def test_a_worker_keeps_so_many_bytes(monkeypatch):
    monkeypatch.setattr(worker, "KEPT_BYTES", 6000)  # of two shards of 1,800 and their labels
    worker._shards.clear()
    logistic().sharded(Here(), 2).gradient()
    assert len(worker._shards) == 2
    logistic().sharded(Here(), 2).gradient()
    assert sum(each.bytes for each in worker._shards.values()) <= 6000


def test_files_of_rows_in_memory_go_with_the_model():
    executor = Here()
    model = logistic().sharded(executor, 2)
    path = model.sharding.shards[0].files[0].path
    assert os.path.exists(path)
    del model
    gc.collect()
    assert not os.path.exists(path)


# What is refused.


def cut(path):
    os.truncate(path, 1000)


def touched(path):
    x = np.load(path)
    x[0] += 1
    np.save(path, x)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("harm", "said"), [(os.remove, "is gone"), (cut, "changed"), (touched, "changed")]
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_file_that_is_not_what_it_was(files, harm, said, after, tmp_path):
    state = {"left": None}

    def before():
        if state["left"] == 0:
            harm(files[0])
        if state["left"] is not None:
            state["left"] -= 1

    x = np.load(files[0], mmap_mode="r")
    model = KerasModel(network(), (x, PROBLEM.labels)).sharded(Here(before), 4)
    theta = model.parameters
    state["left"] = after
    with pytest.raises(ValueError, match=said) as caught:
        model.ekfac(path=tmp_path / "ekfac.h5")
    assert str(files[0]) in str(caught.value)
    assert not (tmp_path / "ekfac.h5").exists()
    with pytest.raises(ValueError, match=said):
        model.fit()
    np.testing.assert_array_equal(model.parameters, theta)


def test_functions_that_give_other_rows(files):
    model = few().sharded(Here(), [lambda: (np.load(files[0]), np.load(files[1]))])
    worker._shards.clear()  # as in a worker that has not seen them
    touched(files[0])
    with pytest.raises(ValueError, match="Shard 0 has other rows than at first"):
        model.gradient()


def broken():
    raise OSError("no such disk")


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([broken], "Shard 0 cannot be loaded: no such disk"),
        (
            [lambda: (PROBLEM.x, BINARY + 1)],
            "Shard 0: its different labels must be the classes 0..1",
        ),
        ([lambda: (np.full((3, 5), np.nan), [0, 1, 0])], "must be finite"),
        (0, "shards must be between 1 and the 90 rows"),
        (91, "shards must be between 1 and the 90 rows"),
    ],
)
def test_shards_that_are_none(shards, said):
    with pytest.raises(ValueError, match=said):
        (few if isinstance(shards, list) else logistic)().sharded(Here(), shards)


@pytest.mark.slow
def test_what_cannot_be_sharded():
    with (
        ProcessPoolExecutor(1, get_context("fork")) as executor,
        pytest.raises(ValueError, match="forked"),
    ):
        logistic().sharded(executor, 2)
    with pytest.raises(ValueError, match="must be a concurrent.futures.Executor, not int"):
        logistic().sharded(3)
    with pytest.raises(ValueError, match="sharded already"):
        logistic().sharded(Here(), 2).sharded(Here(), 2)
    images = Dataset(np.zeros((4, 28, 28, 1), np.float32), [0, 1, 2, 3])
    with pytest.raises(ValueError, match="AllCNNC cannot be sharded"):
        AllCNNC(images, 0.1).sharded(Here(), 2)
    with pytest.raises(ValueError, match="give shards= a list of functions"):
        KerasModel(network(), pipeline(0, 9)).sharded(Here(), 2)
    with pytest.raises(
        ValueError, match="^Lissa draws single training points, and these are in shards"
    ):
        logistic().sharded(Here(), 2).inverse_hvp(np.ones(5), Lissa())
    with pytest.raises(ValueError, match="train.labels is in shards"):
        np.asarray(few().sharded(Here(), [functools.partial(rows, 0, N)]).train.labels)


def test_files_that_do_not_fit(files, tmp_path):
    np.save(tmp_path / "short.npy", BINARY[:-1])
    with pytest.raises(ValueError, match="as many labels as points"):
        npy_shards(files[0], tmp_path / "short.npy", 2)
    with pytest.raises(ValueError, match="no readable .npy file"):
        npy_shards(tmp_path / "none.npy", files[1], 2)
    np.save(tmp_path / "f.npy", np.asfortranarray(PROBLEM.x))
    with pytest.raises(ValueError, match="C order"):
        npy_shards(tmp_path / "f.npy", files[1], 2)


def test_rows_of_files():
    folder = Folder()
    array = np.arange(12.0).reshape(6, 2)
    rows = folder.kept(array)
    assert isinstance(rows, FileRows)
    np.testing.assert_array_equal(rows.rows(2, 6).rows(1, 3).load(), array[3:5])
    assert [len(shard) for shard in file_shards(rows, 4)] == [1, 2, 1, 2]


@pytest.mark.slow
def test_the_library_needs_neither_dask_nor_arrow():
    block = """
import sys
for name in ("dask", "distributed", "pyarrow"):
    sys.modules[name] = None
import influence
from influence.sharding import sharding, shards
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr
