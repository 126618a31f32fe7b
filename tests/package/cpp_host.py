"""Builds and runs the C++ program that ``package cpp`` writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

#: The program must pass these; the sanitizers end it with a report.
CHECKED = "-O1 -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
STAND_IN = Path(__file__).parent / "tensorrt_stand_in"


def tool(*names: str) -> str:
    """The first of some programs that is installed; skips without any."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs {' or '.join(names)}")
    return found


def compile_library(output: Path, *sources: Path, include: Path, flags: tuple[str, ...] = ()) -> Path:
    """A shared library of C++ sources."""
    standard = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    command = [tool("g++", "clang++"), *standard, *flags, f"-I{include}", *map(str, sources), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


def build(folder: Path, *definitions: str, flags: str = CHECKED) -> Path:
    """Build a packaged folder; gives the program."""
    tool("g++", "clang++")
    target = folder / "build"
    options = ["-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={flags}", *definitions]
    for command in (["-S", str(folder), "-B", str(target), *options], ["--build", str(target)]):
        done = subprocess.run([tool("cmake"), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return target / "rtmo"


def run(program: Path, *arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run the program; a report of a sanitizer is a failure."""
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1",
        **{key: str(value) for key, value in variables.items()},
    }
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr  # noqa: PT018
    return done


def write_ppm(image: Path, folder: Path) -> Path:
    """An image as a PPM file."""
    path = folder / f"{image.stem}.ppm"
    assert cv2.imwrite(str(path), cv2.imread(str(image)))
    return path


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What the program printed for each image."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same_people(found: list[dict[str, Any]], expected: list[dict[str, Any]], *, px: float, score: float) -> None:
    """Lists of people as ``Poses.to_dict`` gives them."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        np.testing.assert_allclose(one["box"], other["box"], rtol=0, atol=px)
        np.testing.assert_allclose(one["score"], other["score"], rtol=0, atol=score)
        a, b = np.array(one["keypoints"]), np.array(other["keypoints"])
        np.testing.assert_allclose(a[:, :2], b[:, :2], rtol=0, atol=px)
        np.testing.assert_allclose(a[:, 2], b[:, 2], rtol=0, atol=score)
