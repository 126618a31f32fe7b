"""The made-up images that networks are compared on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rtmo_deploy.measure import structured_images


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 96, 160), (1, 160, 32)])
def test_shape_range_and_whole_numbers(shape):
    images = structured_images(*shape)
    assert images.shape == (shape[0], 3, *shape[1:])
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert images.min() >= 0
    assert images.max() <= 255
    assert np.array_equal(images, np.round(images))


def test_the_same_for_a_seed_and_different_for_another():
    assert np.array_equal(structured_images(2, 64, 96), structured_images(2, 64, 96, seed=0))
    assert not np.array_equal(structured_images(2, 64, 96), structured_images(2, 64, 96, seed=1))
    first, second = structured_images(2, 64, 96)
    assert not np.array_equal(first, second)
    code = "from rtmo_deploy.measure import structured_images as s; print(float(s(2, 64, 96).sum(dtype='f8')))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(other.stdout) == structured_images(2, 64, 96).sum(dtype="f8")


def test_there_is_structure_at_every_scale():
    image = structured_images(1, 256, 256)[0].mean(axis=0)
    for side in (4, 16, 64):  # means of blocks still differ, as they would not in noise
        blocks = image.reshape(256 // side, side, 256 // side, side).mean(axis=(1, 3))
        assert blocks.std() > 10
