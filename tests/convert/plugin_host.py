"""The decode kernel's host build, and the plain NumPy that it is tested against."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rtmo_deploy.convert.plugins.kernel_build import SOURCE_PATH
from rtmo_deploy.runtime.rows import greedy_nms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.runtime.plugins.kernel import DecodeFields

    Array = NDArray[np.float32]

#: Orders in which the host build runs a block's threads: ascending, descending, scattered.
THREAD_ORDERS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class Rows:
    """What the kernel puts out; see docs/guides/plugin.md."""

    num_dets: NDArray[np.int32]
    boxes: Array
    scores: Array
    kept: NDArray[np.int32]
    work: Array

    def people(self, image: int) -> tuple[list[int], Array, Array]:
        """Kept cells, boxes and scores of one image's people."""
        count = int(self.num_dets[image, 0])
        return self.kept[image, :count].tolist(), self.boxes[image, :count], self.scores[image, :count]


def compile_host(folder: Path) -> Path:
    """The host build, as a shared library; skips where there is no C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler for the decode kernel's host build")
    path = folder / "librtmo_decode_host.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-DRTMO_HOST", "-x", "c++", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(path), str(SOURCE_PATH)], check=True)
    return path


@cache
def _host() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(str(compile_host(Path(folder))))


def run_host(logits: Array, boxes: Array, priors: Array, fields: DecodeFields, order: int = 0) -> Rows:
    """The kernel's own statements on the CPU. Outputs start as rubbish, as they do on a GPU."""
    batch, cells = logits.shape
    rows = Rows(
        np.full((batch, 1), -7, np.int32),
        np.full((batch, fields.max_dets, 4), np.nan, np.float32),
        np.full((batch, fields.max_dets), np.nan, np.float32),
        np.full((batch, fields.max_dets), -7, np.int32),
        np.full((batch, 5, cells), np.nan, np.float32),
    )
    inputs = [np.ascontiguousarray(x, np.float32) for x in (logits, boxes, priors)]
    assert inputs[1].shape == (batch, cells, 4)
    assert inputs[2].shape == (cells, 2)
    breaches = _host().rtmo_decode_host(
        batch,
        order,
        *(ctypes.c_void_p(x.ctypes.data) for x in inputs),
        *(ctypes.c_int(x) for x in fields.scalars(cells)),
        *(ctypes.c_void_p(x.ctypes.data) for x in (rows.num_dets, rows.boxes, rows.scores, rows.kept, rows.work)),
    )
    assert breaches == 0, "a barrier is missing"
    return rows


def exact_exp(x: Array) -> Array:
    """exp, rounded to float32 once. NumPy's own float32 exp is off by up to 3 last bits, others on other machines."""
    with np.errstate(over="ignore"):
        return np.exp(x.astype(np.float64)).astype(np.float32)


def exact_sigmoid(x: Array) -> Array:
    """As :func:`rtmo_deploy.runtime.decode.sigmoid`, on :func:`exact_exp`."""
    positive = x >= 0
    z = exact_exp(np.where(positive, -x, x))
    result: Array = np.where(positive, 1 / (1 + z), z / (1 + z)).astype(np.float32)
    return result


def exact_corners(boxes: Array, priors: Array) -> Array:
    """``(..., 4)`` offset and log size in pixels to x1, y1, x2, y2, as ``runtime.decode.decode_boxes``."""
    centre = boxes[..., :2] + priors
    half = exact_exp(boxes[..., 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


def select(scores: Array, corners: Array, fields: DecodeFields) -> list[int]:
    """Kept cells of one image, best first: what ``decode_raw`` does between its boxes and its people."""
    candidates = np.flatnonzero(scores > np.float32(fields.score_thr))
    if fields.pre_topk:
        candidates = candidates[np.argsort(-scores[candidates], kind="stable")[: fields.pre_topk]]
    keep = candidates[greedy_nms(corners[candidates], scores[candidates], fields.nms_thr)]
    return [int(cell) for cell in keep[: fields.max_dets]]


def numpy_people(
    logits: Array, boxes: Array, priors: Array, fields: DecodeFields
) -> list[tuple[list[int], Array, Array]]:
    """Kept cells, boxes and scores of each image, in plain NumPy, to the bit."""
    people = []
    for image_logits, image_boxes in zip(logits, boxes, strict=True):
        scores, corners = exact_sigmoid(image_logits), exact_corners(image_boxes, priors)
        keep = select(scores, corners, fields)
        people.append((keep, corners[keep], scores[keep]))
    return people


def assert_same(rows: Rows, expected: list[tuple[list[int], Array, Array]]) -> None:
    """The same people to the bit, and zeros below them."""
    for image, (cells, corners, scores) in enumerate(expected):
        kept, boxes, kept_scores = rows.people(image)
        assert kept == cells
        np.testing.assert_array_equal(boxes, corners)
        np.testing.assert_array_equal(kept_scores, scores)
        count = len(cells)
        assert not rows.boxes[image, count:].any()
        assert not rows.scores[image, count:].any()
        assert not rows.kept[image, count:].any()
