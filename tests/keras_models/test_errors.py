"""What is said of errors."""

import pytest
import tensorflow as tf

from influence.keras_models.errors import said

KERAS = """Exception encountered when calling Dense.call().

\x1b[1mMatrix size-incompatible: In[0]: [6,4], In[1]: [3,3] [Op:MatMul] name: \x1b[0m

Arguments received by Dense.call():
  • inputs=tf.Tensor(shape=(6, 4), dtype=float32)"""
AUTOGRAPH = """in user code:

    File "model.py", line 9, in call  *
        return 1 / 0

    ZeroDivisionError: division by zero
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("one sentence."), "one sentence"),
        (TypeError(KERAS), "Matrix size-incompatible: In[0]: [6,4], In[1]: [3,3]"),
        (ZeroDivisionError(AUTOGRAPH), "division by zero"),
        (
            RuntimeError(AUTOGRAPH + "LookupError: gradient registry has no entry for: AGrad\n"),
            "TensorFlow has no derivative of AGrad",
        ),
        (tf.errors.InternalError(None, None, "{{node a/b}} no [[c]]\n[[{{node d}}]]"), "no"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_one_line_remains(error, words):
    assert said(error) == words
