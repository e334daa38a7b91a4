"""What is kept from the terminal, and what never is."""

import os
import subprocess
import sys
import warnings

import pytest

from scripts.report.terminal import held_back, plain_warnings


def test_notices_of_compiled_code_are_held_back(capfd):
    with held_back():
        os.write(2, b"a notice\n")
    os.write(2, b"then an error\n")
    assert capfd.readouterr().err == "then an error\n"


def test_everything_is_shown_where_something_fails(capfd):
    def fails():
        with held_back():
            os.write(2, b"libcuda is broken\n")
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    os.write(2, b"and more\n")
    assert capfd.readouterr().err == "libcuda is broken\nand more\n"


def test_a_closed_stderr_is_no_error():
    code = "import sys; assert sys.stderr is None; from scripts.report.terminal import held_back\n"
    command = [sys.executable, "-c", code + "with held_back(): print('done')"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True)
    assert done.stdout == b"done\n"


def test_a_warning_is_a_sentence():
    warning = UserWarning("The solve\nstopped early."), UserWarning, __file__, 1
    with plain_warnings():
        assert warnings.formatwarning(*warning) == "Warning: The solve stopped early.\n"
    assert __file__ in warnings.formatwarning(*warning)
