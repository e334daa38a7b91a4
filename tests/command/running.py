"""The command in this process."""

from influence.command.main import main


def run(capsys, *arguments):
    """What the command prints, when all is well."""
    status = main(list(arguments))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refuse(capsys, *arguments):
    """The sentence that it fails with."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert not printed.out
    [sentence] = printed.err.splitlines()
    assert sentence.startswith("influence: ")
    return sentence
