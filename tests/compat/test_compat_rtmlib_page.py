"""docs/guides/rtmlib.md: its Python runs, with a small model in place of rtmo-s."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "guides" / "rtmlib.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("number", range(3))
def test_a_snippet_runs(number: int, onnx_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    shutil.copy(onnx_n, tmp_path / "rtmo-s.onnx")
    image = np.asarray(cv2.imread(str(pictures[0])), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), image)
    writer = cv2.VideoWriter(str(tmp_path / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, image.shape[1::-1])
    for _ in range(3):
        writer.write(image)
    writer.release()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SNIPPETS[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= (1, 3, 0)[number]
    assert (tmp_path / "drawn.jpg").exists() == (number == 0)
