"""The rooms of the library stand on a staircase, and no model is more than three classes."""

import ast
import functools
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import typing
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import influence
from influence import GenericNeuralNet, plots
from influence.sklearn_models.adapter import SklearnModel

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "influence"
# A room imports from those before it only.
STAIRCASE = [
    "data",
    "sharding",
    "solvers",
    "curvature",
    "objective",
    "fitting",
    "linear",
    "models",
    "sklearn_models",
    "keras_models",
    "studies",
    "drawing",
    "command",
]
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY)


def imports(path):
    """The modules of this project that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if re.match(r"(influence|scripts|tests)\b", name)}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_the_rooms_are_those_of_the_staircase():
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert rooms == set(STAIRCASE)
    files = [path.name for path in LIBRARY.iterdir() if path.suffix in (".py", ".typed")]
    # What users import: names from the rooms, and no code.
    assert sorted(files) == ["__init__.py", "plots.py", "py.typed", "targets.py"]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_downstairs_only(path):
    floor = STAIRCASE.index(path.relative_to(LIBRARY).parts[0])
    for name in imports(path):
        assert name.startswith("influence."), f"{path} imports {name}"
        assert STAIRCASE.index(name.split(".")[1]) <= floor, f"{path} imports {name}"


def test_compiled_functions_are_not_rewritten_by_autograph():
    for path in MODULES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        made = [node for node in nodes if ast.unparse(node) == "tf.function"]
        plain = [
            node
            for node in nodes
            if isinstance(node, ast.Call)
            and "tf.function" in map(ast.unparse, [node.func, *node.args[:1]])
            and any(ast.unparse(keyword) == "autograph=False" for keyword in node.keywords)
        ]
        assert len(plain) == len(made), path


def test_no_circle():
    names = {module_name(path): path for path in MODULES}
    # static_order() raises a CycleError that names the circle.
    graph = {name: imports(path) & names.keys() for name, path in names.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)


def test_at_the_top_of_scripts_stands_only_what_is_run():
    for path in (ROOT / "scripts").glob("*.py"):
        if path.name != "__init__.py":
            assert 'if __name__ == "__main__":' in path.read_text(), path


def models(base=GenericNeuralNet):
    """All subclasses of ``base`` that the library defines."""
    found = [base]
    for subclass in base.__subclasses__():
        found += models(subclass)
    return [model for model in found if model.__module__.startswith("influence.")]


def test_no_model_is_more_than_three_classes():
    assert SklearnModel in models()
    for model in models():
        ours = [each for each in inspect.getmro(model) if each.__module__.startswith("influence.")]
        assert len(ours) <= 3, [each.__name__ for each in ours]


@pytest.mark.parametrize(
    "name",
    [
        "cnn_against_2017",
        "fig2_against_2017",
        "keras_streaming",
        "linear_scale",
        "scale_out",
        "scale_out_sweep",
        "scale_plan",
    ],
)
def test_benchmarks_import_what_there_is(name):
    importlib.import_module(f"benchmarks.{name}")


def test_public_names():
    for module in (influence, influence.targets, plots):
        assert sorted(module.__all__) == module.__all__
        for name in module.__all__:
            thing = getattr(module, name)
            assert getattr(thing, "__module__", "influence.targets").startswith("influence.")


def public_functions(module):
    """(name, function) of what a module defines for others, special methods included."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value) if inspect.isclass(value) else {"": value}
        for member, attribute in members.items():
            if member.startswith("_") and not member.startswith("__"):
                continue
            parts = [attribute]
            if isinstance(attribute, property):
                parts = [attribute.fget, attribute.fset]
            elif isinstance(attribute, functools.cached_property):
                parts = [attribute.func]
            elif isinstance(attribute, (staticmethod, classmethod)):
                parts = [attribute.__func__]
            for part in parts:
                function = inspect.unwrap(part) if callable(part) else None
                # Not what dataclasses and protocols write themselves.
                if (
                    inspect.isfunction(function)
                    and function.__code__.co_filename == module.__file__
                ):
                    yield f"{name}.{member}".rstrip("."), function


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_public_signatures_are_completely_annotated(path):
    module = importlib.import_module(module_name(path).removesuffix(".__init__"))
    for name, function in public_functions(module):
        parameters = list(inspect.signature(function).parameters)
        hints = typing.get_type_hints(function)
        missing = {*parameters, "return"} - {"self", "cls"} - hints.keys()
        assert not missing, f"{name}: no type of {', '.join(sorted(missing))}"


USER = """
from influence import ConjugateGradient, Dataset, GaussNewton, GenericNeuralNet, LogisticRegression

train = Dataset([[1.0], [2.0]], [0, 1])
model = LogisticRegression(train, 0.1).fit()
reveal_type(model)
solver = ConjugateGradient()
reveal_type(model.influence_on_loss([[1.0]], [1], reduction="mean", solver=solver))
reveal_type(model.hessian() + 0.1)
model.influence_on_loss([[1.0]], [1], sovler=solver)
model.influence_on_loss([[1.0]], [1], reduction="sum")
model.influence_on_loss([[1.0]], [1], solver=model)


class Mine(GenericNeuralNet):
    def logits(self, x):
        return x

    def example_losses(self, logits, labels):
        return logits

    def regularization(self):
        return 0.0

    def fit(self):
        return self

    def _clone(self, train):
        return Mine(train, self.variables)

    def _check_labels(self, labels, name):
        pass


mine = Mine(train, []).refit([0])
reveal_type(mine)
reveal_type(mine.validate([[1.0]], [1], curvature=GaussNewton(mine) + 0.1))
"""
TOLD = [
    'Revealed type is "influence.models.logistic_regression.LogisticRegression"',
    'Revealed type is "numpy.ndarray[',
    'Revealed type is "influence.curvature.operator.HessianOperator"',
    'error: Unexpected keyword argument "sovler"',
    'error: Argument "reduction" to "influence_on_loss"',
    'error: Argument "solver" to "influence_on_loss"',
    'Revealed type is "user.Mine"',
    'Revealed type is "influence.objective.validation.Validation"',
]


@pytest.mark.slow
def test_what_a_type_checker_tells_a_user(tmp_path):
    # Installed, as far as a checker can see: on the path, where it goes by py.typed.
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    (site / "influence").symlink_to(LIBRARY)
    (work / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--check-untyped-defs", "--no-pretty", "user.py"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    told = re.findall(r"user\.py:\d+: .*(?:error: |Revealed type).*", done.stdout)
    assert len(told) == len(TOLD), done.stdout
    for line, words in zip(told, TOLD):
        assert words in line


def test_wheel_and_sdist_have_the_library_and_nothing_else(tmp_path):
    # Elsewhere, so that no build folder is left in the checkout.
    source = tmp_path / "source"
    names = ["influence_command.py", "pyproject.toml", "README.md", "LICENSE"]
    names += ["MANIFEST.in", "CHANGELOG.md", "CITATION.cff"]
    shutil.copytree(LIBRARY, source / "influence", ignore=shutil.ignore_patterns("__pycache__"))
    for name in names:
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "tests/models", source / "tests/models")
    for kind in ("wheel", "sdist"):
        build = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
        command = [sys.executable, "-c", build, str(tmp_path)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    files = [path for path in LIBRARY.rglob("*") if path.suffix in (".py", ".typed", ".html")]
    wanted = {path.relative_to(ROOT).as_posix() for path in files} | {"influence_command.py"}
    [wheel], [sdist] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        [points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert b"influence = influence_command:main" in archive.read(points)
    assert inside == wanted
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames() if "." in Path(name).name}
    made = {name for name in inside if ".egg-info" in name} | {"setup.cfg"}
    assert inside - made - {""} == wanted | set(names) - {"LICENSE"}
