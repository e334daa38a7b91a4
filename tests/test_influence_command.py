"""What is kept from the terminal, and what never is."""

import os
import subprocess
import sys

import pytest

from influence_command import held_back


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
    code = "import sys; assert sys.stderr is None; from influence_command import held_back\n"
    command = [sys.executable, "-c", code + "with held_back(): print('done')"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True)
    assert done.stdout == b"done\n"


@pytest.mark.slow
def test_the_command_says_one_sentence(tmp_path):
    code = "import sys, influence_command; sys.exit(influence_command.main())"
    command = [sys.executable, "-c", code, "mislabelled", "none.csv", "--target", "y"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "influence: There is no file none.csv.\n"
