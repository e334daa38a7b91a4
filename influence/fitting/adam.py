"""Adam: many steps in one compiled loop, and taken up where it was stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from influence.data.files import fingerprint, saved_arrays, write_atomically
from influence.data.types import File
from influence.data.vectors import split
from influence.objective.generic_neural_net import GenericNeuralNet

# Steps of one compiled call, between two checkpoints.
_STEPS_AT_ONCE = 500


@dataclass(frozen=True)
class AdamState:
    """Where a training stands: what Adam needs to go on as if it had never stopped.

    Attributes:
        step: steps done.
        parameters: θ [p].
        first, second: the running means of the gradient and of its square, [p].

    Examples:
        A training goes on from it as if it had never stopped:

        >>> from influence import Adam, BinaryLogisticRegression, Dataset
        >>> train = Dataset([[1], [-1], [2]], [1, 0, 1])
        >>> one, two = (BinaryLogisticRegression(train, weight_decay=0.1) for _ in range(2))
        >>> adam = Adam(learning_rate=0.1, batch_size=1)
        >>> straight = adam.run(one, 6)
        >>> resumed = adam.run(two, 6, adam.run(two, 4))
        >>> resumed.step, bool((resumed.parameters == straight.parameters).all())
        (6, True)
    """

    step: int
    parameters: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def save(self, path: File, key: str = "") -> None:
        """Write the state to a .npz file, whole or not at all; ``key`` says what it belongs to."""
        write_atomically(Path(path), lambda file: np.savez(file, key=key, **vars(self)))

    @classmethod
    def load(cls, path: File, key: str | None = None) -> AdamState | None:
        """What ``save`` wrote; None where there is no such file, where it is damaged, or where it
        has another ``key`` than this."""
        saved = saved_arrays(Path(path))
        names = [field.name for field in dataclasses.fields(cls)]
        if saved is None or not saved.keys() >= {"key", *names}:
            return None
        if key is not None and str(saved["key"]) != key:
            return None
        step, *vectors = (saved[name] for name in names)
        return cls(int(step), *vectors)


@dataclass(frozen=True)
class Adam:
    """Minimise a model's objective by Adam (Kingma & Ba 2015), with the paper's schedule.

    Every pass shuffles the training points, by the seed and the number of the pass alone, and
    leaves out the last ones that do not fill a batch.

    Args:
        learning_rate: of the first steps.
        decays: (step, factor) pairs: from that step on, the learning rate is multiplied by factor.
        batch_size: points a step.
        seed: of the shuffles.

    Examples:
        The first step is as long as the learning rate, whatever the gradient:

        >>> from influence import Adam, BinaryLogisticRegression, Dataset
        >>> train = Dataset([[1], [-1]], [1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64")
        >>> state = Adam(learning_rate=0.1).run(model, 1)
        >>> state.step, model.parameters.round(3).tolist()
        (1, [0.1])
    """

    learning_rate: float = 1e-4
    decays: tuple[tuple[int, float], ...] = ((110_000, 0.1), (220_000, 0.01))
    batch_size: int = 500
    seed: int = 0

    # The constants of the publication, and of TensorFlow 1.
    BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The learning rate of each step (counted from 0), Adam's bias correction included."""
        factors = np.ones(len(steps))
        for start, factor in sorted(self.decays):
            factors[steps >= start] = factor
        correction = np.sqrt(1 - self.BETA_2 ** (steps + 1.0)) / (1 - self.BETA_1 ** (steps + 1.0))
        return self.learning_rate * factors * correction

    def batches(self, steps: np.ndarray, n: int) -> np.ndarray:
        """The training points of each step, [len(steps), batch_size]."""
        size = min(self.batch_size, n)
        per_pass = n // size
        chosen = np.empty((len(steps), size), np.int32)
        for number in np.unique(steps // per_pass):
            order = np.random.default_rng([self.seed, int(number)]).permutation(n)
            mine = steps // per_pass == number
            chosen[mine] = order[: per_pass * size].reshape(per_pass, size)[steps[mine] % per_pass]
        return chosen

    def run(
        self,
        model: GenericNeuralNet,
        steps: int,
        state: AdamState | None = None,
        *,
        checkpoint: File | None = None,
        progress: bool = False,
    ) -> AdamState:
        """Train ``model`` up to step number ``steps``; returns the state reached.

        Args:
            model: its parameters are where the training starts, unless ``state`` says otherwise.
            steps: how many steps there are in all, those of ``state`` included.
            state: an earlier training to go on from.
            checkpoint: a file that the state is saved to every 500 steps, and that a training that
                was killed is taken up from. The result is the same to the last bit.
            progress: show a progress bar.
        """
        zero = np.zeros(model.num_parameters, model.dtype)
        state = state or AdamState(0, model.parameters, zero, zero)
        model.parameters = state.parameters
        key = self._fingerprint(model, state)
        saved = None if checkpoint is None else AdamState.load(checkpoint, key)
        if saved is not None and saved.step <= steps:
            state = saved
            model.parameters = state.parameters
        compiled = self._compile(model)
        with tqdm(
            total=steps, initial=state.step, desc="Adam", disable=None if progress else True
        ) as bar:
            while state.step < steps:
                numbers = np.arange(state.step, min(state.step + _STEPS_AT_ONCE, steps))
                first, second = compiled(
                    tf.constant(self.batches(numbers, len(model.train))),
                    tf.constant(self.rates(numbers), model.dtype),
                    tf.constant(state.first),
                    tf.constant(state.second),
                )
                state = AdamState(
                    state.step + len(numbers), model.parameters, first.numpy(), second.numpy()
                )
                if checkpoint is not None:
                    state.save(checkpoint, key)
                bar.update(len(numbers))
        # The loop changed the variables behind the model's back.
        model.parameters = state.parameters
        return state

    def _fingerprint(self, model, state: AdamState) -> str:
        """Of what a training depends on: settings, model, data and start."""
        # The regulariser's value tells models apart that differ in its strength alone.
        settings = self, type(model).__name__, state.step, float(model.regularization())
        train = model.train
        moments = state.parameters, state.first, state.second
        return fingerprint(repr(settings), *moments, train.x, train.labels)

    def _compile(self, model):
        x, labels = model.tensors
        state = tf.TensorSpec([model.num_parameters], model.dtype)
        batch_size = min(self.batch_size, len(model.train))

        def gradient(rows):
            total = model.sum_gradient(tf.gather(x, rows), tf.gather(labels, rows))
            return total / batch_size + model.regularization_slope()

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, batch_size], tf.int32),
                tf.TensorSpec([None], model.dtype),
                state,
                state,
            ],
        )
        def many_steps(batches, rates, first, second):
            def one_step(i, first, second):
                slope = gradient(batches[i])
                first = self.BETA_1 * first + (1 - self.BETA_1) * slope
                second = self.BETA_2 * second + (1 - self.BETA_2) * tf.square(slope)
                change = rates[i] * first / (tf.sqrt(second) + self.EPSILON)
                for variable, part in zip(model.variables, split(change, model.variables)):
                    variable.assign_sub(part)
                return i + 1, first, second

            _, first, second = tf.while_loop(
                lambda i, *_: i < tf.size(rates),
                one_step,
                (0, first, second),
                parallel_iterations=1,
            )
            return first, second

        return many_steps.get_concrete_function()


def continue_without(
    adam: Adam, model: GenericNeuralNet, state: AdamState, index: int, steps: int, **settings: Any
) -> GenericNeuralNet:
    """The paper's retraining: ``steps`` more from ``state``, without one training point.

    The running means and the decayed learning rate go on from where they were.
    """
    retrained = model._clone(model.train.without(index))
    adam.run(retrained, state.step + steps, state, **settings)
    return retrained
