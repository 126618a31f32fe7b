"""Training augmentations of RTMO: one annotated image of a dataset in, one at the network's input size out.

NumPy and OpenCV only. What is drawn at random is drawn
from the generator that the caller passes, before any image is read, and nothing else is: the same index and
the same generator state give the same sample, whoever works on it.
"""

from __future__ import annotations

from rtmo_deploy.train.augment.augmenter import Augmenter
from rtmo_deploy.train.augment.geometry import random_size
from rtmo_deploy.train.augment.options import AffineOptions, AugmentOptions, WindowOptions

__all__ = ["AffineOptions", "AugmentOptions", "Augmenter", "WindowOptions", "random_size"]
