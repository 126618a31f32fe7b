"""The same people on a CUDA GPU as on the CPU. Not one of these has run so far: no GPU has been at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from rtmo_deploy.measure import compare_people
from rtmo_deploy.runtime import PoseEstimator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps 10 bits of a product; these tests compare float32."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def worst_keypoint(model: Path, pictures: list[Path]) -> float:
    """Both devices find the same people; how far apart their keypoints are at the worst one, pixels."""
    on_cpu, on_gpu = (PoseEstimator.open(model, device=device).predict(pictures) for device in ("cpu", "cuda:0"))
    errors = compare_people(on_cpu, on_gpu)
    assert errors.matched > 0
    assert (errors.missed, errors.extra) == (0, 0)
    return errors.keypoint_px_max


def test_torch_on_cuda_finds_the_same_people(checkpoint_n: Path, pictures: list[Path]) -> None:
    assert worst_keypoint(checkpoint_n, pictures) < 0.1


def test_onnxruntime_on_cuda_finds_the_same_people(onnx_n: Path, pictures: list[Path]) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    # ONNX Runtime's CUDA provider computes convolutions in TF32 by default: a few tenths of a pixel.
    assert worst_keypoint(onnx_n, pictures) < 2.0
