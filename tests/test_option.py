"""Options of steps take what Python users give: lists, text, NumPy's numbers; anything else is a UsageError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtmo_deploy import ExportOptions
from rtmo_deploy.convert.trt import BuildOptions
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench import BenchOptions, Protocol, Spinning
from rtmo_deploy.package.triton import TritonOptions
from rtmo_deploy.release.comparison import DiffOptions
from rtmo_deploy.runtime.engine_file import Shape
from rtmo_deploy.serve import ServeOptions

TAKEN: list[tuple[type[Any], str, Any, Any]] = [
    (ExportOptions, "imgsz", [320, 640], (320, 640)),
    (ExportOptions, "imgsz", np.array([320, 640]), (320, 640)),
    (ExportOptions, "batch", np.int64(2), 2),
    (ExportOptions, "score_thr", np.float32(0.5), 0.5),
    (BuildOptions, "opt", (1, 640, 640), (Shape(1, 640, 640),)),
    (BuildOptions, "opt", [[1, 640, 640], Shape(2, 32, 32)], (Shape(1, 640, 640), Shape(2, 32, 32))),
    (BuildOptions, "targets", "8.6", ("8.6",)),
    (BenchOptions, "models", "model.onnx", (Path("model.onnx"),)),
    (BenchOptions, "protocol", "v100", Protocol.V100),
    (BenchOptions, "spinning", "off", Spinning.OFF),
    (BenchOptions, "threads", [None, 2], (None, 2)),
    (BenchOptions, "batches", [4, 4, 1], (4, 1)),
    (BenchOptions, "threads", (), (None,)),
    (TritonOptions, "imgsz", [320, 320], (320, 320)),
    (ServeOptions, "tls_cert", None, None),
    (ServeOptions, "allow_origin", "https://example.com", ("https://example.com",)),
    (DiffOptions, "ignore", "sizes", ("sizes",)),
]

REFUSED: list[tuple[type[Any], str, Any, str]] = [
    (ExportOptions, "imgsz", 320, "2 values, each a whole number"),
    (ExportOptions, "batch", "4", "a whole number"),
    (ExportOptions, "batch", True, "a whole number"),
    (ExportOptions, "nms_thr", [0.5], "a number"),
    (ExportOptions, "letterbox", "top_left", "'center' or 'top-left'"),
    (ExportOptions, "static", "no", "True or False"),
    (BuildOptions, "max", ((640, 640),), r"a list, each entry \(batch, height, width\)"),
    (BuildOptions, "timing_cache", 3, "a path"),
    (BuildOptions, "timeout", float("nan"), "a number"),
    (BenchOptions, "protocol", "e2", "'e2e' or 'v100'"),
    (BenchOptions, "pictures", 0, "1 or more"),
    (BenchOptions, "batches", 0, "from 1 to 4096"),
    (BenchOptions, "threads", "2", "a list, each entry a whole number"),
    (TritonOptions, "instances", 0, "a whole number, 1 or more"),
    (TritonOptions, "score_thr", 2, "a number from 0 to 1"),
    (ServeOptions, "port", "8000", "a whole number from 0 to 65535"),
    (DiffOptions, "ignore", 3, "a list, each entry a text"),
]


@pytest.mark.parametrize(("kind", "name", "given", "value"), TAKEN)
def test_values_become_what_the_field_is(kind: type[Any], name: str, given: Any, value: Any) -> None:
    found = getattr(kind(**{name: given}), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("kind", "name", "given", "wanted"), REFUSED)
def test_other_values_are_refused_with_what_is_wanted(kind: type[Any], name: str, given: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"Give .*{wanted}"):
        kind(**{name: given})
