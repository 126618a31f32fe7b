"""The exception tree and its drawing."""

from __future__ import annotations

import re

import pytest

from rtmo_deploy import errors
from rtmo_deploy.errors import MissingDependencyError, RtmoDeployError


def tree(kind=RtmoDeployError):
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:  # a floor may have a narrower one of its own
            yield from tree(child)


def test_the_drawing_in_the_docstring_is_the_tree():
    drawn = {}
    parents = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+Error)\s+(\d)?", line)
        if found:
            depth = len(found[1]) // 4
            parents = [*parents[:depth], found[2]]
            drawn[found[2]] = (parents[-2] if depth else None, found[3])
    real = {
        kind.__name__: (
            kind.__base__.__name__ if kind is not RtmoDeployError else None,
            str(kind.exit_code) if "exit_code" in vars(kind) else None,
        )
        for kind in tree()
    }
    assert drawn == real


def test_exit_codes():
    codes = {kind.__name__: kind.exit_code for kind in tree()}
    assert codes["CheckpointError"] == codes["ArtifactError"] == codes["ModelError"] == 4
    assert codes["MissingDependencyError"] == codes["DownloadError"] == codes["SetupError"] == 5
    assert codes["ParityError"] == codes["GateFailedError"] == 6
    assert (codes["RtmoDeployError"], codes["UsageError"], codes["InputDataError"]) == (1, 2, 3)


def test_the_message():
    error = RtmoDeployError("It broke.", remedy="Mend it.", where=12)
    assert (str(error), error.finding, error.remedy, error.where) == (
        "12: It broke. Mend it.",
        "It broke.",
        "Mend it.",
        "12",
    )
    assert str(RtmoDeployError("It broke.")) == "It broke."


@pytest.mark.parametrize("extra", ["cpu", "trt-rtx"])
def test_a_missing_package_names_the_line_that_installs_it(extra):
    error = MissingDependencyError("thing", purpose="Testing", extra=extra)
    assert str(error) == (
        "Testing needs the package 'thing', which is not installed. "
        f"Install it with: pip install 'rtmo-deploy[{extra}]'"
    )


def test_a_finding_can_be_printed():
    error = RtmoDeployError("It says \ud800.")
    assert str(error).encode() == error.finding.encode() == b"It says \\ud800."
