"""The rooms of the library stand on a staircase, and no model is more than three classes."""

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import influence
from influence import GenericNeuralNet
from influence.sklearn_models.adapter import SklearnModel

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "influence"
# A room imports from those before it only.
STAIRCASE = [
    "data",
    "solvers",
    "curvature",
    "objective",
    "fitting",
    "linear",
    "models",
    "sklearn_models",
    "keras_models",
    "studies",
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
    assert sorted(files) == ["__init__.py", "py.typed"]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_downstairs_only(path):
    floor = STAIRCASE.index(path.relative_to(LIBRARY).parts[0])
    for name in imports(path):
        assert name.startswith("influence."), f"{path} imports {name}"
        assert STAIRCASE.index(name.split(".")[1]) <= floor, f"{path} imports {name}"


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


def test_public_names():
    assert sorted(influence.__all__) == influence.__all__
    for name in influence.__all__:
        assert getattr(influence, name).__module__.startswith("influence.")


def test_the_wheel_has_every_room(tmp_path):
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    # Elsewhere, so that no build folder is left in the checkout.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("influence", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in LIBRARY.rglob("*.py")}
    assert wanted | {"influence/py.typed"} <= inside
    assert not [name for name in inside if name.startswith(("scripts", "tests"))]
