"""How a warning is shown."""

import warnings

from scripts.report.terminal import plain_warnings


def test_a_warning_is_a_sentence():
    warning = UserWarning("The solve\nstopped early."), UserWarning, __file__, 1
    with plain_warnings():
        assert warnings.formatwarning(*warning) == "Warning: The solve stopped early.\n"
    assert __file__ in warnings.formatwarning(*warning)
