"""Which training points made the model predict this? For saved data, and a saved Keras model.

The file of data is a .npz (np.savez) with the arrays x_train [n, ...], y_train [n], x_test [m, ...]
and y_test [m], as the model takes them. With --model that is a Keras model as it was saved; without
one a logistic regression (no bias) is fitted. A score is the predicted change of the test point's
loss if the training point is removed: positive is helpful, negative harmful.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

from influence import Dataset, KerasModel, LogisticRegression, SolverError
from influence.data.files import DAMAGED, write_atomically
from influence.objective.minimum import (
    SMALL_GRADIENT,
    ConvergenceWarning,
    point_gradient_norm,
)
from scripts.report.experiment import use_style, write_figure
from scripts.report.explanation import are_images, as_csv, explain, picture, table

NAMES = ("x_train", "y_train", "x_test", "y_test")
# With more parameters than this, those of the last layer alone.
LAST_LAYER_ABOVE = 20_000
# The paper's, of a network that is not at a minimum.
NETWORK_DAMPING = 0.01
WEIGHT_DECAY = 0.01
HINT = """
Can these scores be trusted? Refit this model without its most influential points, in Python, and
read docs/reading-the-scores.md:
"""


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write the CSV and the picture that were asked for."""
    options = _parse(arguments)
    try:
        run(options)
    except (ValueError, OSError, SolverError) as error:
        # What Keras says goes on for paragraphs.
        sys.exit(f"explain: {str(error).splitlines()[0]}")


def run(options: argparse.Namespace) -> None:
    """The same, for parsed options.

    Raises:
        ValueError: data, model or options that do not fit, in one sentence.
        SolverError: the curvature of the model cannot be inverted.
    """
    arrays = read_arrays(options.data)
    x_train, y_train, x_test, y_test = (arrays[name] for name in NAMES)
    _check(options, x_train, x_test, y_test)
    make = fit_logistic if options.model is None else read_keras
    model, curvature, code = make(x_train, y_train, options)
    index = options.test_index
    if index is None:
        index = int(np.argmax(model.losses(x_test, y_test)))
    with warnings.catch_warnings():
        # ``read_keras`` has said it in its own words.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = model.influence_on_loss(x_test[[index]], y_test[[index]], curvature=curvature)[0]
    explanation = explain(model, (x_train, y_train), (x_test, y_test), index, options.top, scores)
    print(f"\n{table(explanation)}\n")
    if options.csv is not None:
        write_atomically(options.csv, lambda file: file.write(as_csv(explanation).encode()))
        print(f"Wrote {options.csv}")
    if options.figure is not None:
        use_style()
        write_figure(picture(explanation, x_train, x_test), options.figure)
    first = [
        "import numpy as np",
        f"data = np.load({str(options.data)!r})",
        f'point = data["x_test"][[{index}]], data["y_test"][[{index}]]',
    ]
    imports_first = sorted(first + code, key=lambda line: not line.startswith(("import", "from")))
    print(HINT, *imports_first, sep="\n    ")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of a .npz; nothing in it is unpickled.

    Raises:
        ValueError: names the file, or the array, that is missing or cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        saved = np.load(path, allow_pickle=False)
    except DAMAGED:
        saved = None
    if not isinstance(saved, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is not a .npz: write it with np.savez.")
    with saved:
        missing = [name for name in NAMES if name not in saved.files]
        if missing:
            raise ValueError(
                f"{path} has no array {missing[0]}: it needs {', '.join(NAMES)}, and has "
                f"{', '.join(saved.files) or 'none'}."
            )
        return {name: _array(saved, name, path) for name in NAMES}


def fit_logistic(x, y, options):
    """(the library's logistic regression of these points, its damped Hessian, code for both)."""
    if y.dtype.kind == "f" and (y % 1 != 0).any():
        raise ValueError(
            "y_train must be the classes 0, 1, … of a logistic regression: for labels that are "
            "other numbers give a Keras model with --model."
        )
    scale = 1 / 255 if x.dtype == np.uint8 else 1.0
    weight_decay = WEIGHT_DECAY if options.weight_decay is None else options.weight_decay
    model = LogisticRegression(Dataset(x, y, scale), weight_decay).fit()
    accuracy = np.mean(model.predict(x) == y)
    print(
        f"Fitted a logistic regression without bias, weight decay {weight_decay:g}"
        f"{', pixels divided by 255' if scale != 1 else ''}: {len(y)} training points, "
        f"{model.num_parameters} parameters, training accuracy {accuracy:.3f}."
    )
    code = [
        "from influence import Dataset, LogisticRegression",
        f'train = Dataset(data["x_train"], data["y_train"]{"" if scale == 1 else ", 1 / 255"})',
        f"model = LogisticRegression(train, {weight_decay!r}).fit()",
    ]
    if not options.damping:
        return model, None, [*code, "print(model.validate(*point))"]
    code += [f"print(model.validate(*point, curvature=model.hessian() + {options.damping!r}))"]
    return model, model.hessian() + options.damping, code


def read_keras(x, y, options):
    """(the saved Keras model with these points, its damped Gauss-Newton matrix, code for both)."""
    network = _load(options.model)
    size = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    last_layer = size > LAST_LAYER_ABOVE if options.last_layer is None else options.last_layer
    layer = _last_layer(network) if last_layer else None
    model = KerasModel(network, (x, y), variables=layer)
    damping = default_damping(network, layer) if options.damping is None else options.damping
    which = f"the last layer, {layer.name!r}" if last_layer else "all layers"
    print(
        f"Read {options.model}: influences through {which}, {model.num_parameters} of {size} "
        f"parameters, damping {damping:g}, {len(y)} training points."
    )
    share = np.linalg.norm(model.gradient()) / point_gradient_norm(model)
    if share > SMALL_GRADIENT:
        print(
            f"The model is not at a minimum of its training loss there: the gradient's norm is "
            f"{share:.2g} of a training point's. Take the order of the scores, not their size."
        )
    variables = f", variables=network.get_layer({layer.name!r})" if last_layer else ""
    ridge = f" + {damping!r}" if damping else ""
    code = [
        "import keras",
        "from influence import KerasModel",
        f"network = keras.saving.load_model({str(options.model)!r})",
        'train = data["x_train"], data["y_train"]',
        "# To a minimum; where there is none, regularise the layers or take --last-layer.",
        f"model = KerasModel(network, train{variables}).fit()",
        f"print(model.validate(*point, curvature=model.gauss_newton(){ridge}))",
    ]
    return model, model.gauss_newton() + damping, code


def default_damping(network: keras.Model, layer: keras.Layer | None) -> float:
    """0 at a last layer whose weights have an L2 regulariser, else the paper's.

    With outputs that are linear in the parameters the Gauss-Newton matrix is the Hessian, and the
    regulariser alone gives every weight curvature: a ridge beside it only makes the scores too
    small, and less like refits.

    Args:
        layer: the one that the influences go through; None is all of them.
    """
    weights = [v for v in (layer or network).trainable_variables if len(v.shape) > 1]
    last = {id(v) for v in _last_layer(network).trainable_variables}
    regularised = [id(v) in last and getattr(v.regularizer, "l2", 0) > 0 for v in weights]
    return 0.0 if regularised and all(regularised) else NETWORK_DAMPING


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, help="a .npz with " + ", ".join(NAMES))
    add("--model", type=Path, help="a .keras file; without it a logistic regression is fitted")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--test-index", type=int, help="the test point to explain")
    which.add_argument(
        "--worst", action="store_true", help="the test point with the largest loss (the default)"
    )
    add("--top", type=int, default=5, help="training points of each kind (default 5)")
    add("--csv", type=Path, help="write the points to this file, too")
    add("--figure", type=Path, help="for images: write a picture to this .png")
    add("--weight-decay", type=float, help=f"of the logistic regression (default {WEIGHT_DECAY})")
    add(
        "--damping",
        type=float,
        help="added to the curvature (default 0 for a logistic regression, and for a last layer "
        f"with an L2 regulariser, else {NETWORK_DAMPING})",
    )
    add(
        "--last-layer",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="influences through the last layer's parameters alone; the default for Keras models "
        f"with more than {LAST_LAYER_ABOVE:,} parameters",
    )
    return parser.parse_args(arguments)


def _check(options, x_train, x_test, y_test) -> None:
    """Raise a ValueError for options that do not fit, before anything long begins."""
    if options.model is None and options.last_layer is not None:
        raise ValueError("--last-layer is for Keras models: give one with --model.")
    if options.model is not None and options.weight_decay is not None:
        raise ValueError("--weight-decay is for the logistic regression: a --model has its own.")
    if options.damping is not None and not 0 <= options.damping < np.inf:
        raise ValueError(f"--damping must be at least 0 and finite, not {options.damping:g}.")
    if x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"x_test must be like x_train, [m{''.join(f', {s}' for s in x_train.shape[1:])}]; its "
            f"shape is {x_test.shape}."
        )
    if len(y_test) != len(x_test):
        raise ValueError(
            f"x_test has {len(x_test)} rows and y_test has {len(y_test)}: give one label a row."
        )
    if not 1 <= options.top <= len(x_train):
        raise ValueError(
            f"--top must lie between 1 and the {len(x_train)} training points, not {options.top}."
        )
    if options.test_index is not None and not 0 <= options.test_index < len(x_test):
        raise ValueError(
            f"--test-index must lie in 0..{len(x_test) - 1}, not be {options.test_index}."
        )
    if options.figure is None:
        return
    if options.figure.suffix.lower() != ".png":
        raise ValueError(f"--figure must end in .png, not be {options.figure}.")
    if not are_images(x_train):
        raise ValueError(
            f"--figure is for images: x_train must be [n, h, w], [n, h, w, 1] or [n, h, w, 3]; its "
            f"shape is {x_train.shape}."
        )


def _array(saved, name, path):
    try:
        array = saved[name]
    except DAMAGED as error:
        raise ValueError(
            f"The array {name} of {path} cannot be read ({error}): save plain numbers."
        ) from None
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{name} must have a row for each point; its shape is {array.shape}.")
    return array


def _load(path: Path) -> keras.Model:
    if not path.is_file() or path.suffix != ".keras":
        raise ValueError(f"{path} is not a Keras file: write one with model.save('NAME.keras').")
    try:
        with warnings.catch_warnings():
            # The optimizer is of no use here.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            # Code in the file (Lambda layers) is refused: safe_mode.
            return keras.saving.load_model(path)
    except (*DAMAGED, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"Keras cannot load {path} ({reason[0] if reason else type(error).__name__}); with "
            f"layers or losses of your own, use influence.KerasModel in Python."
        ) from None


def _last_layer(network):
    layers = [layer for layer in network.layers if layer.trainable_variables]
    if not layers:
        raise ValueError(f"The model {network.name!r} has no trainable variables.")
    return layers[-1]


if __name__ == "__main__":
    main()
