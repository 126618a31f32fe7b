"""The floors of the house: a folder imports only from the floors below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rtmo_deploy

PACKAGE = Path(rtmo_deploy.__file__).parent
#: From the roof down.
FLOORS = (
    *("cli", "release", "doctor", "train", "serve", "bulk", "package", "convert", "measure", "web", "report"),
    *("compat", "runtime", "track", "media", "data", "model", "zoo"),
)
#: Single files that every floor may use and that use no floor.
FOUNDATION = (
    "address",
    "poses",
    "artifact",
    "child",
    "environment",
    "file_kind",
    "files",
    "lazy",
    "machine",
    "option",
    "outputs",
    "packages",
    "plain",
    "progress",
    "recipe_findings",
    "sides",
    "yaml_file",
    "errors",
    "_version",
)
#: The front door and the command's other name: they lead to any floor.
DOORS = ("__init__", "__main__")


def place_of(name):
    """Floor or foundation stone that a module ``rtmo_deploy.<place>.…`` belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(source, module, *, is_package):
    """Absolute names of what a module imports, wherever in the file, ``TYPE_CHECKING`` blocks included."""
    base = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def allowed(place):
    if place in FOUNDATION:
        return set(FOUNDATION)
    return set(FOUNDATION) | set(FLOORS[FLOORS.index(place) :])


def violations(source, module, *, is_package=False):
    place = place_of(module)
    if place in DOORS:
        return []
    found = []
    for name in imports_of(source, module, is_package=is_package):
        if name.split(".")[0] != "rtmo_deploy" or name == "rtmo_deploy":
            continue
        if place_of(name) not in allowed(place):
            found.append(f"{module} imports {name}")
    return found


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package


def test_nobody_imports_from_above():
    found = [line for name, source, package in sources() for line in violations(source, name, is_package=package)]
    assert not found


def test_every_module_stands_on_a_floor():
    places = {place_of(name) for name, *_ in sources()}
    assert places <= {*FLOORS, *FOUNDATION, *DOORS}
    assert {"cli", "convert", "measure", "report", "runtime", "model", "zoo", *FOUNDATION} <= places


def test_the_folders_are_the_floors():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders <= set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rtmo_deploy.zoo.x", "from rtmo_deploy.model import RTMO"),
        ("rtmo_deploy.zoo.x", "def f():\n    import rtmo_deploy.cli.app"),
        ("rtmo_deploy.model.x", "if TYPE_CHECKING:\n    from rtmo_deploy.runtime.decode import Array"),
        ("rtmo_deploy.runtime.x", "from rtmo_deploy import measure"),
        ("rtmo_deploy.runtime.x", "from ..convert import options"),
        ("rtmo_deploy.poses", "from rtmo_deploy.zoo import COCO_17"),
        ("rtmo_deploy.measure.x", "from rtmo_deploy import PoseEstimator"),
    ],
)
def test_the_rule_can_be_broken(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rtmo_deploy.cli.x", "from rtmo_deploy.zoo import COCO_17"),
        ("rtmo_deploy.zoo.x", "from .records import VARIANTS\nfrom rtmo_deploy._version import __version__"),
        ("rtmo_deploy.artifact", "from rtmo_deploy.poses import Skeleton\nimport json"),
    ],
)
def test_the_rule_can_be_kept(module, source):
    assert violations(source, module) == []


def imports():
    """Modules that each module imports anywhere in its file, for types as well."""
    modules = {module: (source, is_package) for module, source, is_package in sources()}
    return {
        module: {name for name in imports_of(source, module, is_package=is_package) if name in modules} - {module}
        for module, (source, is_package) in modules.items()
    }


def circles(graph):
    """What is left of a graph when whoever imports nothing that is left is taken away, again and again."""
    left = dict(graph)
    while free := [module for module, wanted in left.items() if not wanted & left.keys()]:
        for module in free:
            del left[module]
    return left


def test_no_modules_import_each_other():
    graph = {module: wanted for module, wanted in imports().items() if module != "rtmo_deploy"}
    packages = {module for module, _, is_package in sources() if is_package}
    # A package names what it exports; to import one of its modules is not to import it.
    graph = {module: {name for name in wanted if name not in packages} for module, wanted in graph.items()}
    found = circles(graph)
    assert not found, "\n".join(f"{module} imports {sorted(found.keys() & wanted)}" for module, wanted in found.items())


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}).keys() == {"a", "b", "c"}
