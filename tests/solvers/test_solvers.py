"""Every solver against the dense float64 answer, and what each says when it cannot have it."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence import (
    BlockConjugateGradient,
    ConjugateGradient,
    Exact,
    Lissa,
    SolverError,
    SolverWarning,
)
from influence.curvature import operator as hessian
from influence.curvature.operator import MatrixOperator
from influence.solvers.preconditioners import KeptInverse

CG = (ConjugateGradient, BlockConjugateGradient)


def spd(p=12, condition=1e3, seed=0):
    """A symmetric positive definite matrix with a known condition number."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))
    return (q * np.geomspace(1, condition, p)) @ q.T


@pytest.mark.parametrize(
    "solver",
    [Exact(), ConjugateGradient(1e-12), BlockConjugateGradient(1e-12)],
    ids=["exact", "cg", "block cg"],
)
@pytest.mark.parametrize("k", [None, 1, 3, 30], ids=["vector", "1", "3", "k > p"])
@pytest.mark.parametrize("condition", [1, 1e2, 1e3])
def test_against_dense_float64(solver, k, condition):
    matrix = spd(condition=condition)
    v = np.random.default_rng(1).standard_normal(12 if k is None else (12, k))
    solution = solver.solve(matrix, v)
    truth = np.linalg.solve(matrix, v)
    assert solution.x.shape == v.shape
    assert np.linalg.norm(solution.x - truth) <= 1e-8 * np.linalg.norm(truth)
    assert np.all(solution.converged)
    assert not np.any(solution.negative_curvature)
    expected = () if k is None else (k,)
    for field in ("residual", "iterations", "converged", "negative_curvature"):
        assert np.shape(getattr(solution, field)) == expected


def test_residual_is_the_true_one():
    matrix, v = spd(), np.arange(1.0, 13)
    solution = ConjugateGradient(0.1).solve(matrix, v)
    true = np.linalg.norm(matrix @ solution.x - v) / np.linalg.norm(v)
    assert solution.residual == pytest.approx(true, rel=1e-12)
    assert 1e-12 < solution.residual <= 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 5))
@pytest.mark.parametrize("kind", CG)
def test_columns_do_not_feel_each_other(kind, seed, p, k):
    random = np.random.default_rng(seed)
    matrix, block = spd(p, 100, seed), random.standard_normal((p, k))
    together = kind(1e-10).solve(matrix, block).x
    alone = [kind(1e-10).solve(matrix, column).x for column in block.T]
    np.testing.assert_allclose(together, np.stack(alone, 1), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "solver", [Exact(), *(kind() for kind in CG)], ids=["exact", "cg", "block cg"]
)
def test_zero_right_hand_side_gives_zero(solver):
    v = np.stack([np.zeros(12), np.ones(12)], 1)
    solution = solver.solve(spd(), v)
    assert not solution.x[:, 0].any()
    assert solution.residual[0] == 0
    assert solution.converged.all()


@pytest.mark.parametrize(
    "solver", [Exact(), *(kind() for kind in CG)], ids=["exact", "cg", "block cg"]
)
@pytest.mark.parametrize(
    ("v", "message"),
    [(np.full(12, np.nan), "finite"), (np.ones((12, 1, 1)), r"\[p\] or \[p, k\]")],
)
def test_bad_right_hand_side(solver, v, message):
    with pytest.raises(ValueError, match=message):
        solver.solve(spd(), v)


def test_a_perfect_preconditioner_needs_one_step():
    matrix = spd(condition=1e6)
    plain = ConjugateGradient(1e-8).solve(matrix, np.ones(12))
    solver = ConjugateGradient(1e-8, preconditioner=Exact().factor(matrix))
    assert solver.solve(matrix, np.ones(12)).iterations == 1
    assert plain.iterations > 5


def test_a_kept_inverse_is_made_again_when_it_has_become_stale():
    kept, v = KeptInverse(patience=4), np.ones(12)
    matrices = [spd(seed=seed) for seed in (0, 0, 1, 1)]
    matrices[1] = 1.01 * matrices[1]
    made, iterations = [], []
    for matrix in matrices:
        operator = MatrixOperator(matrix, 12)
        solution = ConjugateGradient(1e-10, preconditioner=kept(operator)).solve(operator, v)
        np.testing.assert_allclose(solution.x, np.linalg.solve(matrix, v), rtol=1e-6)
        made.append(kept.made)
        iterations.append(solution.iterations)
    # Its own matrix and one like it; another, where it fails; that one again, with its own.
    assert made == [1, 1, 1, 2]
    assert max(iterations[:2]) <= 4 < iterations[2]
    assert iterations[3] <= 4


@pytest.mark.parametrize("kind", CG)
@pytest.mark.parametrize("strict", [False, True])
def test_unconverged_cannot_be_missed(kind, strict):
    solver, matrix, v = kind(1e-10, max_iterations=3), spd(), np.eye(12)[:, :2] + 1
    expected = pytest.raises(SolverError) if strict else pytest.warns(SolverWarning)
    with expected as caught:
        solution = solver.solve(matrix, v, strict=strict)
    message = str(caught.value if strict else caught[0].message)
    assert "after 3 iterations for 2 of 2" in message
    if not strict:
        assert not solution.converged.any()
        assert (solution.iterations == 3).all()


@pytest.mark.parametrize("kind", CG)
@pytest.mark.parametrize("strict", [False, True])
def test_negative_curvature_is_detected_and_named(kind, strict):
    matrix = spd() - 3 * np.eye(12)
    expected = pytest.raises(SolverError) if strict else pytest.warns(SolverWarning)
    with expected as caught:
        solution = kind().solve(matrix, np.ones(12), strict=strict)
    assert "negative curvature" in str(caught.value if strict else caught[0].message)
    if not strict:
        assert solution.negative_curvature
        assert not solution.converged
        assert np.isfinite(solution.x).all()


def test_exact_names_the_damping_that_would_do():
    matrix = spd() - 3 * np.eye(12)
    with pytest.raises(SolverError, match=r"hessian \+ ") as caught:
        Exact().solve(matrix, np.ones(12))
    damping = float(str(caught.value).split("hessian + ")[1].split("`")[0])
    assert 2.0 < damping < 2.5
    assert Exact().solve(matrix + damping * np.eye(12), np.ones(12)).converged


def named_damping(message):
    """The number that a message proposes, as a reader would copy it."""
    return float(str(message).split("hessian + ")[1].split("`")[0])


def indefinite(seed, size, ends, dtype="float64"):
    """An operator whose smallest and largest eigenvalues are ``ends``."""
    random = np.random.default_rng(seed)
    eigenvalues = [*ends, *random.uniform(*ends, size - 2)]
    q, _ = np.linalg.qr(random.standard_normal((size, size)))
    matrix = (q * eigenvalues) @ q.T
    return MatrixOperator(((matrix + matrix.T) / 2).astype(dtype), 1)


SPECTRA = {
    "seed": st.integers(0, 10_000),
    "size": st.integers(2, 64) | st.integers(65, 130),
    "smallest": st.floats(-3, -2).map(lambda power: -(10.0**power)) | st.floats(-10, -0.01),
    "largest": st.floats(0.001, 10),
    "k": st.sampled_from([None, 1, 3]),
}


def test_cg_names_the_damping_that_would_do(monkeypatch):
    # The eigenvalues of more than 64 parameters by Lanczos's method.
    monkeypatch.setattr(hessian, "_MATRIX_EIGENVALUES", 64)

    @settings(max_examples=40, deadline=None)
    @given(**SPECTRA)
    def check(seed, size, smallest, largest, k):
        operator = indefinite(seed, size, (smallest, largest))
        matrix = operator.dense()
        # Along an eigenvector with the smallest eigenvalue, which no solve can then miss.
        v = np.linalg.eigh(matrix)[1][:, 0]
        v = v if k is None else np.random.default_rng(seed).standard_normal((size, k)) + v[:, None]
        with pytest.warns(SolverWarning, match="negative curvature") as caught:
            ConjugateGradient(1e-6).solve(operator, v)
        assert len(caught) == 1
        damping = named_damping(caught[0].message)
        assert 1.05 * -smallest <= damping <= 1.3 * -smallest + 1e-9
        assert np.linalg.eigvalsh((operator + damping).dense())[0] > 0
        solution = ConjugateGradient(1e-6).solve(operator + damping, v)  # warnings are errors
        truth = np.linalg.solve(matrix + damping * np.eye(size), v)
        assert np.all(solution.converged)
        np.testing.assert_allclose(solution.x, truth, atol=1e-2 * np.abs(truth).max())

    check()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_names_the_damping_whatever_the_spectrum(dtype):
    @settings(max_examples=25, deadline=None)
    @given(**{name: SPECTRA[name] for name in ("seed", "size", "smallest", "largest")})
    def check(seed, size, smallest, largest):
        operator = indefinite(seed, size, (smallest, largest), dtype)
        v = np.ones(size)
        with pytest.raises(SolverError, match="not positive definite") as caught:
            Exact().solve(operator, v)
        damping = named_damping(caught.value)
        assert 1.05 * -smallest <= damping <= 1.4 * -smallest + 1e-3
        damped = operator + damping
        assert np.linalg.eigvalsh(damped.dense().astype(np.float64))[0] > 0
        if dtype == "float64":
            truth = np.linalg.solve(damped.dense(), v)
            np.testing.assert_allclose(Exact().solve(damped, v).x, truth, rtol=1e-6, atol=1e-9)
        else:
            Exact().factor(damped)

    check()


def test_cg_in_float32_names_a_damping_clear_of_rounding():
    operator = indefinite(0, 100, (-0.5, 4.0), "float32")
    with pytest.warns(SolverWarning, match="negative curvature") as caught:
        ConjugateGradient(1e-4).solve(operator, np.ones(100))
    damping = named_damping(caught[0].message)
    assert 0.54 < damping < 0.61
    assert ConjugateGradient(1e-4).solve(operator + damping, np.ones(100)).converged


def test_a_damping_already_there_is_what_the_message_adds_to():
    operator = indefinite(1, 80, (-2.0, 3.0)) + 0.5
    with pytest.warns(SolverWarning) as caught:
        ConjugateGradient().solve(operator, np.ones(80))
    damping = named_damping(caught[0].message)
    assert 1.5 < damping < 1.8
    assert ConjugateGradient().solve(operator + damping, np.ones(80)).converged


@pytest.mark.parametrize("operator", [np.diag([1.0, -2.0]), -spd()], ids=["2×2", "negative"])
def test_a_plain_array_gets_one_sentence(operator):
    with pytest.warns(SolverWarning) as caught:
        ConjugateGradient().solve(operator, np.ones(len(operator)))
    message = str(caught[0].message)
    assert len(caught) == 1
    assert "is not positive definite: add a damping above " in message
    assert message.endswith("as in `hessian + δ`.")
    assert ". " not in message
    # From the curvature that was met: at least something, and no more than is needed.
    met = float(message.split("above ")[1].split(",")[0])
    assert 0 < met <= -np.linalg.eigvalsh(operator)[0] * 1.01


def test_eigenvalues_that_lanczos_cannot_find_leave_the_plain_sentence(monkeypatch):
    operator = indefinite(2, 70, (-1.0, 1.0))

    def refuse(*_):
        raise SolverError("not converged")

    monkeypatch.setattr(MatrixOperator, "extreme_eigenvalues", refuse)
    with pytest.warns(SolverWarning, match="as in `hessian \\+ δ`"):
        ConjugateGradient().solve(operator, np.ones(70))


def test_nan_never_leaves_a_solver():
    broken = np.full((3, 3), np.nan)
    for solver in (Exact(), ConjugateGradient()):
        with pytest.raises(SolverError, match="finite"):
            solver.solve(broken, np.ones(3))


def test_exact_factors_once_and_lets_go():
    class Operator:
        made = 0

        def dense(self):
            Operator.made += 1
            return spd()

        def __matmul__(self, block):
            return spd() @ block

    solver, operator = Exact(), Operator()
    for _ in range(3):
        solver.solve(operator, np.ones(12))
    assert Operator.made == 1
    watch = weakref.ref(operator)
    del operator
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(0), "tolerance"),
        (lambda: ConjugateGradient(max_iterations=0), "max_iterations"),
        (lambda: Lissa(scale=-1), "scale"),
        (lambda: Lissa(repeats=1), "repeats"),
        (lambda: Lissa(recursion_depth=0), "recursion_depth"),
        (lambda: Lissa(batch_size=0), "batch_size"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_solvers_are_values():
    assert ConjugateGradient(1e-3) == ConjugateGradient(1e-3)
    assert Lissa(25.0) == Lissa(25.0) != Lissa(26.0)
    assert Exact() == Exact()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConjugateGradient().tolerance = 1
