"""The command ``influence``: its options, what it prints, and how it fails."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from influence.command import checking, doubting, explaining, overturning
from influence.command.report import report, report_of_suspects
from influence.command.subject import prepare
from influence.data.files import write_atomically
from influence.solvers.solution import SolverError

_DESCRIPTION = "Which training rows or images made a model predict this? Whose labels are wrong?"
_EPILOG = """\
examples:
  influence explain train.csv --test test.csv --target diagnosis
  influence mislabelled train.csv --target diagnosis --csv suspects.csv
  influence overturn train.csv --target price --coefficient area
  influence explain photos/train --test photos/test --model model.keras

Tables are .csv, .parquet, .feather, .arrow or .npz (X, y); images lie in folders, one for each
class. Without --model a logistic regression (classes) or a ridge regression (numbers) is fitted.
Rows are counted from 0. influence COMMAND --help has the options of each.
"""
_BAD_INPUT = 2

Warned = list[warnings.WarningMessage]


@dataclass(frozen=True)
class Answer:
    """What a command has found: words for the terminal, and files, each with what writes it."""

    words: str
    files: dict[Path, Callable[[IO[bytes]], object]] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, write the files that were asked for, and print its answer.

    A file is whole or not there. Where one cannot be written, the others are, and the answer is
    printed all the same, with the names of what was written.

    Args:
        arguments: those of the command line; None takes them from there.

    Returns:
        The exit status: 0, or 2 where the input is bad, which is said in one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["influence", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _check_outputs(options)
            answer = options.answer(options, caught)
        for sentence in _sentences(caught):
            print(f"Note: {sentence}", file=sys.stderr)
        errors = {path: _write(path, write) for path, write in answer.files.items()}
        wrote = [f"Wrote {path}" for path, error in errors.items() if not error]
        _print("\n".join([answer.words, "", *wrote]).rstrip())
        if any(errors.values()):
            raise ValueError(" ".join(filter(None, errors.values())))
    except (ValueError, OSError, SolverError, MemoryError) as error:
        print(f"influence: {_sentence(error)}", file=sys.stderr)
        return _BAD_INPUT
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage."""
        self.exit(_BAD_INPUT, f"{self.prog}: {message} ({self.prog} --help says more).\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("influence", None, _DESCRIPTION, _EPILOG, formatter_class=_formatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, answer: Callable[[argparse.Namespace, Warned], Answer], words: str):
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(answer=answer)
        _add_common(sub)
        return sub

    sub = command("explain", _explain, "the training rows that made a prediction")
    sub.add_argument("--test", type=Path, required=True, help="a table of test rows")
    sub.add_argument("--row", type=_at_least(0), help="which of them (default: the most wrong one)")
    sub.add_argument("--top", type=_at_least(1), default=5, help="rows of each kind (default 5)")
    sub.add_argument("--html", type=Path, metavar="OUT", help="write a report to look at")

    sub = command("mislabelled", _mislabelled, "the training rows whose labels deserve a look")
    sub.add_argument("--csv", type=Path, metavar="OUT", help="write all rows, in that order")
    sub.add_argument("--html", type=Path, metavar="OUT", help="write a page of the first 60")
    sub.add_argument("--top", type=_at_least(1), default=10, help="rows to print (default 10)")

    sub = command("overturn", _overturn, "the fewest training rows that change a conclusion")
    about = sub.add_mutually_exclusive_group(required=True)
    about.add_argument("--coefficient", metavar="NAME", help="of the model, whose sign may change")
    about.add_argument("--metric", choices=overturning.METRICS, help="of the test rows")
    past = sub.add_mutually_exclusive_group()
    past.add_argument("--below", type=_finite, help="the value to fall below")
    past.add_argument("--above", type=_finite, help="the value to rise above")
    sub.add_argument("--test", type=Path, help="a table for --metric (default: TRAIN itself)")

    sub = command("check", _check, "whether the scores can be trusted, by fitting again")
    sub.add_argument("--test", type=Path, required=True, help="a table of test rows")
    sub.add_argument("--points", type=_at_least(2), default=20, help="refits (default 20)")
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=24)


def _add_common(sub) -> None:
    help_ = "a table of training rows, or a folder of images by class"
    sub.add_argument("train", type=Path, metavar="TRAIN", help=help_)
    sub.add_argument("--target", metavar="COLUMN", help="the column to predict (of a .npz: y)")
    sub.add_argument(
        "--as",
        dest="kind",
        choices=("classes", "numbers"),
        help="what the target is (default: text and up to 10 whole numbers are classes)",
    )
    sub.add_argument("--model", type=Path, help="a fitted model: .keras, .skops or .joblib")
    sub.add_argument(
        "--pixels",
        choices=("255", "1"),
        help="of images, what the largest value of a pixel is for the network (default 255)",
    )
    sub.add_argument(
        "--trust", action="store_true", help="run what code the file of the model may have in it"
    )


def _at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return int(text)

    return number


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
    return float(text)


def _check_outputs(options) -> None:
    """Raise a ValueError, before anything is computed, for a file to write that is another one."""
    names = {"TRAIN": "train", "--test": "test", "--model": "model"}
    taken = {}
    for option, name in (names | {"--csv": "csv", "--html": "html"}).items():
        path = getattr(options, name, None)
        if path is None:
            continue
        if option in names:
            taken[os.path.realpath(path)] = option
        elif path.is_dir():
            raise ValueError(f"{option} {path} is a folder: give a file in it.")
        elif taken.setdefault(os.path.realpath(path), option) != option:
            other = taken[os.path.realpath(path)]
            raise ValueError(f"{option} {path} is {other}, too: give it a name of its own.")


def _prepare(options):
    return prepare(
        options.train,
        getattr(options, "test", None),
        target=options.target,
        kind=options.kind,
        model=options.model,
        trust=options.trust,
        pixels=options.pixels,
    )


def _explain(options, caught) -> Answer:
    explanation = explaining.explain(_prepare(options), options.row, options.top)
    files = {}
    if options.html is not None:
        page = report(explanation, _sentences(caught), options.command)
        files[options.html] = lambda file: file.write(page.encode())
    return Answer(explaining.in_words(explanation), files)


def _mislabelled(options, caught) -> Answer:
    suspects = doubting.find_suspects(_prepare(options))
    files = {}
    if options.csv is not None:
        # Not as one text, which a million rows would make as large as everything else.
        files[options.csv] = lambda file: suspects.to_frame().to_csv(file, index=False, mode="wb")
    if options.html is not None:
        page = report_of_suspects(suspects, _sentences(caught), options.command)
        files[options.html] = lambda file: file.write(page.encode())
    return Answer(doubting.in_words(suspects, options.top), files)


def _overturn(options, _) -> Answer:
    overturned = overturning.overturn(
        _prepare(options),
        coefficient=options.coefficient,
        metric=options.metric,
        below=options.below,
        above=options.above,
    )
    return Answer(overturning.in_words(overturned))


def _check(options, _) -> Answer:
    return Answer(checking.in_words(checking.check(_prepare(options), options.points)))


def _sentences(caught) -> list[str]:
    """What was warned of that is for the user, each once."""
    own = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    return list(dict.fromkeys(own))


def _sentence(error) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The output'}: {error.strerror}."
    lines = str(error).strip().splitlines()
    return lines[0] if lines else f"{type(error).__name__}."


def _write(path, write) -> str:
    """Why the file cannot be written; "" where it is."""
    try:
        write_atomically(path, write)
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or _sentence(error).rstrip(".")
        return f"{path} cannot be written ({reason})."
    return ""


def _print(text) -> None:
    # Such as of a terminal that knows ASCII alone.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError:
        # So that Python does not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
