"""The letterbox in JavaScript gives the bytes that Python's gives."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from rtmo_deploy.runtime.letterbox import letterbox
from rtmo_deploy.web.pages import asset

NODE = shutil.which("node")
SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
import { letterbox } from "./letterbox.mjs";
for (const [name, columns, rows, width, height] of JSON.parse(readFileSync("cases.json"))) {
  const { tensor, scale, offset } = letterbox(readFileSync(`${name}.rgba`), columns, rows, width, height);
  writeFileSync(`${name}.bgr`, new Uint8Array(tensor));
  writeFileSync(`${name}.json`, JSON.stringify([scale, ...offset]));
}
"""
SIZES = [
    (480, 640),
    (640, 480),
    (1, 1),
    (3, 700),
    (700, 2),
    (352, 352),
    (333, 1000),
    (719, 1281),
    (63, 64),
    (1080, 1920),
]


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_every_byte(tmp_path):
    rng = np.random.default_rng(0)
    sizes = SIZES + [tuple(rng.integers(1, 500, 2).tolist()) for _ in range(20)]
    cases, images = [], []
    for number, (rows, columns) in enumerate(sizes):
        height, width = [(352, 352), (416, 416), (256, 320), (640, 480)][number % 4]
        image = rng.integers(0, 256, (rows, columns, 4), dtype=np.uint8)
        image.tofile(tmp_path / f"{number}.rgba")
        cases.append((str(number), columns, rows, width, height))
        images.append(np.ascontiguousarray(image[..., 2::-1]))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "letterbox.mjs").write_text(asset("letterbox.js"))
    (tmp_path / "run.mjs").write_text(SCRIPT)
    subprocess.run([NODE, "run.mjs"], cwd=tmp_path, check=True)
    for (name, _, _, width, height), image in zip(cases, images, strict=True):
        wanted, transform = letterbox(image, (height, width))
        found = np.fromfile(tmp_path / f"{name}.bgr", np.uint8).reshape(3, height, width).transpose(1, 2, 0)
        assert np.array_equal(found, wanted), f"{image.shape}"
        assert json.loads((tmp_path / f"{name}.json").read_text()) == pytest.approx(
            [transform.scale, *transform.offset], abs=1e-9
        )
