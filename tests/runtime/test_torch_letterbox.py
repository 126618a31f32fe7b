"""The letterbox of images on a GPU against the one on the CPU; it computes the same on any device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtmo_deploy import RTMO
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.runtime.inputs import pixels_of
from rtmo_deploy.runtime.letterbox import Placement, letterbox
from rtmo_deploy.runtime.torch_letterbox import letterbox_tensor

SIZES = [(480, 640), (640, 480), (97, 331), (1, 1), (1, 50), (50, 1), (900, 1601), (640, 640)]


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("image_hw", SIZES)
@pytest.mark.parametrize("size_hw", [(640, 640), (352, 416), (32, 64)])
def test_it_is_the_same_up_to_a_grey_level(image_hw, size_hw, placement: Placement) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    expected, transform = letterbox(image, size_hw, placement)
    canvas, same = letterbox_tensor(torch.from_numpy(image), size_hw, placement)
    assert same == transform
    assert canvas.shape == (3, *size_hw)
    assert canvas.dtype == torch.float32
    apart = np.abs(canvas.permute(1, 2, 0).numpy() - expected.astype(np.float32))
    assert apart.max() <= 1
    assert apart.mean() < 0.2


def test_the_poses_are_the_same() -> None:
    image = SyntheticPeople(1, seed=3, options=SyntheticOptions(size=(240, 320), people=(3, 3)))[0].image
    model = RTMO("rtmo-n", device="cpu")
    expected = model(image, score_thr=0.5)
    placed = replace_canvas(model, image)
    (found,) = model.detect([placed], score_thr=0.5)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.3)
    # An array among tensors: all are made arrays.
    both = model.detect([placed, model.place(image)], score_thr=0.5)
    np.testing.assert_allclose(both[1].keypoints, expected.keypoints, atol=1e-2)
    np.testing.assert_allclose(both[0].keypoints, found.keypoints, atol=1e-2)


def replace_canvas(model: RTMO, image: np.ndarray):
    canvas, _ = letterbox_tensor(torch.from_numpy(image), model.input_hw, Placement.CENTER)
    return model.place(image)._replace(canvas=canvas)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_tensor_on_a_gpu_stays_there() -> None:
    image = SyntheticPeople(1, seed=3, options=SyntheticOptions(size=(240, 320), people=(3, 3)))[0].image
    tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).cuda()
    model = RTMO("rtmo-n", device="cuda:0")
    assert model.tensor([model._placed(tensor.flip(0).permute(1, 2, 0))]).is_cuda
    poses, expected = model(tensor), RTMO("rtmo-n", device="cpu")(image)
    np.testing.assert_allclose(poses.keypoints, expected.keypoints, atol=1)
    np.testing.assert_array_equal(pixels_of(poses.source), image)
