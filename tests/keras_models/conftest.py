"""What every test of this folder leaves as it was."""

import keras
import pytest


@pytest.fixture(autouse=True)
def _policy():
    """Networks here change the type of numbers that layers compute in."""
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)
