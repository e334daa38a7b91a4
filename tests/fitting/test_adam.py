"""Adam against a loop in NumPy, its batches and its rates, and trainings that were interrupted."""

import numpy as np
import pytest

from influence import Adam
from influence.fitting.adam import AdamState, continue_without
from tests.conftest import Problem
from tests.networks import TinyNetwork

ADAM = Adam(learning_rate=0.01, decays=((30, 0.1), (60, 0.01)), batch_size=32, seed=5)
STATE = ("parameters", "first", "second")


def make_network(**settings):
    return TinyNetwork(Problem().train, **settings)


def assert_same(state, other):
    """To the last bit."""
    assert state.step == other.step
    for name in STATE:
        np.testing.assert_array_equal(getattr(state, name), getattr(other, name))


def numpy_adam(adam, model, steps, state=None):
    """Kingma & Ba's Algorithm 1, in its own notation, with gradients of the model's objective."""
    n = len(model.train)
    theta, m, v, done = model.parameters, 0.0, 0.0, 0
    if state is not None:
        theta, m, v, done = state.parameters, state.first, state.second, state.step
    batches = adam.batches(np.arange(done, steps), n)
    for t, batch in zip(range(done + 1, steps + 1), batches):
        model.parameters = theta
        x, labels = model.train.x[batch], model.train.labels[batch]
        g = model.test_gradient(x, labels, reduction="mean") + model.regularization_gradient()
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        factor = 0.01 if t > 60 else 0.1 if t > 30 else 1.0
        # As TensorFlow has it: ε is added before the second moment's correction.
        alpha = adam.learning_rate * factor * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        theta = theta - alpha * m / (np.sqrt(v) + 1e-8)
    return AdamState(steps, theta, m, v)


def test_against_a_loop_in_numpy():
    model = make_network()
    state, truth = ADAM.run(model, 100), numpy_adam(ADAM, make_network(), 100)
    assert np.abs(truth.parameters - make_network().parameters).max() > 0.1
    for name in STATE:
        ours, theirs = getattr(state, name), getattr(truth, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    assert state.step == 100
    np.testing.assert_array_equal(model.parameters, state.parameters)


def test_the_first_step_is_the_learning_rate():
    model = make_network()
    before = model.parameters
    Adam(learning_rate=0.01).run(model, 1)
    np.testing.assert_allclose(np.abs(model.parameters - before), 0.01, rtol=1e-3)


def test_it_minimises():
    model = make_network()
    start, optimum = model.objective(), make_network().fit().objective()
    Adam(learning_rate=0.01, decays=((400, 0.1),), batch_size=60).run(model, 600)
    assert model.objective() - optimum < 0.02 * (start - optimum)


def test_rates_are_the_papers_schedule():
    steps = np.array([0, 109_999, 110_000, 219_999, 220_000, 499_999])
    expected = [1e-4 * np.sqrt(1 - 0.999) / (1 - 0.9), 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    np.testing.assert_allclose(Adam().rates(steps), expected, rtol=1e-12)
    ten = (1 - 0.999**10) ** 0.5 / (1 - 0.9**10)
    np.testing.assert_allclose(Adam().rates(np.array([9])), 1e-4 * ten, rtol=1e-12)
    decays = ((220_000, 0.01), (110_000, 0.1))  # in any order
    np.testing.assert_array_equal(Adam(decays=decays).rates(steps), Adam().rates(steps))


@pytest.mark.parametrize(("n", "size"), [(103, 10), (100, 10), (7, 10), (10, 10), (19, 10)])
def test_every_pass_is_a_shuffle_without_its_last_points(n, size):
    adam = Adam(batch_size=size, seed=3)
    size = min(size, n)
    per_pass = n // size
    batches = adam.batches(np.arange(3 * per_pass), n)
    assert batches.shape == (3 * per_pass, size)
    passes = batches.reshape(3, -1)
    for number, chosen in enumerate(passes):
        assert chosen.size == n - n % size
        assert len(np.unique(chosen)) == chosen.size
        assert chosen.min() >= 0
        assert chosen.max() < n
        # Of the seed and the number of the pass alone, wherever the steps begin.
        later = adam.batches(np.arange(number * per_pass, (number + 1) * per_pass), n)
        np.testing.assert_array_equal(later.ravel(), chosen)
    assert (passes[0] != passes[1]).any()
    other = Adam(batch_size=size, seed=4).batches(np.arange(3 * per_pass), n)
    assert (batches != other).any()


def test_batches_of_any_steps_are_parts_of_the_same_sequence():
    whole = ADAM.batches(np.arange(40), 120)
    np.testing.assert_array_equal(ADAM.batches(np.arange(5, 23), 120), whole[5:23])
    np.testing.assert_array_equal(ADAM.batches(np.array([31]), 120), whole[31:32])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, dtype):
    path = tmp_path / "adam.npz"
    undisturbed = make_network(dtype=dtype)
    expected = ADAM.run(undisturbed, 1200)
    ADAM.run(make_network(dtype=dtype), 700, checkpoint=path)
    resumed = make_network(dtype=dtype)
    assert_same(ADAM.run(resumed, 1200, checkpoint=path), expected)
    np.testing.assert_array_equal(resumed.parameters, undisturbed.parameters)
    assert expected.first.dtype == expected.parameters.dtype == dtype


def test_killed_in_the_middle(tmp_path, monkeypatch):
    path, expected = tmp_path / "adam.npz", ADAM.run(make_network(), 1200)
    seen = []

    def rates(adam, steps, whole=Adam.rates):
        if steps[0] >= 1000:
            raise KeyboardInterrupt
        return whole(adam, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Adam, "rates", rates)
        with pytest.raises(KeyboardInterrupt):
            ADAM.run(make_network(), 1200, checkpoint=path)

    def watched(adam, steps, whole=Adam.rates):
        seen.append(steps[0])
        return whole(adam, steps)

    monkeypatch.setattr(Adam, "rates", watched)
    assert_same(ADAM.run(make_network(), 1200, checkpoint=path), expected)
    assert seen == [1000]


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    path = tmp_path / "adam.npz"
    expected = ADAM.run(make_network(), 50, checkpoint=path)
    monkeypatch.setattr(Adam, "rates", None)
    model = make_network()
    assert_same(ADAM.run(model, 50, checkpoint=path), expected)
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_a_state_goes_on_in_memory():
    expected = ADAM.run(make_network(), 90)
    model = make_network()
    half = ADAM.run(model, 45)
    assert_same(ADAM.run(make_network(), 90, half), expected)
    assert_same(ADAM.run(model, 90, half), expected)


DAMAGES = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "a flipped byte": lambda content: content[:300] + bytes([content[300] ^ 255]) + content[301:],
    "something else": lambda content: b"step: 30\n" * 50,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_starts_again(tmp_path, damage):
    path = tmp_path / "adam.npz"
    ADAM.run(make_network(), 30, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    expected = ADAM.run(make_network(), 60)
    assert_same(ADAM.run(make_network(), 60, checkpoint=path), expected)
    # And the damage is gone.
    assert int(np.load(path)["step"]) == 60


@pytest.mark.parametrize("other", [{"hidden": 5}, {"dtype": "float32"}], ids=["size", "dtype"])
def test_a_checkpoint_of_another_model_starts_again(tmp_path, other):
    path = tmp_path / "adam.npz"
    ADAM.run(make_network(**other), 30, checkpoint=path)
    expected = ADAM.run(make_network(), 60)
    assert_same(ADAM.run(make_network(), 60, checkpoint=path), expected)


def test_a_checkpoint_from_another_start_is_not_taken_up(tmp_path):
    path, elsewhere = tmp_path / "adam.npz", make_network()
    ADAM.run(make_network(), 30, checkpoint=path)
    elsewhere.parameters = elsewhere.parameters + 1
    expected = elsewhere.with_parameters(elsewhere.parameters)
    assert_same(ADAM.run(elsewhere, 60, checkpoint=path), ADAM.run(expected, 60))


def test_one_trace():
    class Counted(TinyNetwork):
        traced = 0

        def logits(self, x):
            self.traced += 1
            return super().logits(x)

    model = Counted(Problem().train)
    # Three calls of the compiled loop, of two lengths.
    ADAM.run(model, 1100)
    assert model.traced == 1


def test_what_was_computed_at_the_old_parameters_is_forgotten():
    model = make_network()
    old = model.hessian()
    ADAM.run(model, 3)
    assert model.hessian() is not old


def test_retraining_goes_on_without_the_point():
    model = make_network()
    state = ADAM.run(model, 70)
    kept = AdamState(state.step, *(getattr(state, name).copy() for name in STATE))
    retrained = continue_without(ADAM, model, state, 17, 40)
    by_hand = TinyNetwork(Problem().train.without(17))
    assert len(retrained.train) == 119
    np.testing.assert_array_equal(retrained.train.x, np.delete(model.train.x, 17, 0))
    expected = ADAM.run(by_hand, 110, state)
    np.testing.assert_array_equal(retrained.parameters, expected.parameters)
    # The moments, the numbers of the steps and with them the decayed rate go on.
    truth = numpy_adam(ADAM, TinyNetwork(Problem().train.without(17)), 110, state)
    np.testing.assert_allclose(retrained.parameters, truth.parameters, rtol=0, atol=1e-10)
    moved = np.abs(retrained.parameters - state.parameters)
    assert 0 < moved.max() < 40 * 0.01 * 0.01 * 3
    # Nobody else's arrays are changed.
    assert_same(state, kept)
    np.testing.assert_array_equal(model.parameters, state.parameters)


def test_a_state_is_read_as_it_was_saved(tmp_path):
    path, vectors = tmp_path / "state.npz", np.arange(6.0).reshape(3, 2)
    assert AdamState.load(path) is None
    AdamState(7, *vectors).save(path, "mine")
    for key in (None, "mine"):
        state = AdamState.load(path, key)
        assert state.step == 7
        np.testing.assert_array_equal([state.parameters, state.first, state.second], vectors)
    assert AdamState.load(path, "another's") is None
    path.write_bytes(path.read_bytes()[:200])
    assert AdamState.load(path) is None
    np.savez(path, step=7)
    assert AdamState.load(path) is None
