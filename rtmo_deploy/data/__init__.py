"""Images and the people annotated in them: readers, combinations, and synthetic people.

Nothing here knows a network input: letterboxing, batching and augmenting belong to the floors above.
"""

from __future__ import annotations

from rtmo_deploy.data.images import decode_image, find_images, read_image
from rtmo_deploy.data.sample import People, PoseDataset, Sample

__all__ = ["People", "PoseDataset", "Sample", "decode_image", "find_images", "read_image"]
