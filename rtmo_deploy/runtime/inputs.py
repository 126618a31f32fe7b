"""Whatever holds an image to its pixels: paths, addresses, bytes, open files, Pillow images, arrays and tensors."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeGuard

import numpy as np

from rtmo_deploy.address import is_file_address, local_path
from rtmo_deploy.data.images import MAX_BYTES, decode_image, pillow_pixels, read_image
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.media.fetch import fetch_image

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image

Color = Literal["bgr", "rgb"]
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int, /) -> bytes: ...


ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image | NDArray[Any] | torch.Tensor"
)
#: An image that is at hand, or can be read again: a path, the bytes of a file, a BGR array, or ``(H, W, 3)`` uint8 BGR
#: on a GPU.
Kept: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[np.uint8] | torch.Tensor"


def to_bgr(image: ImageLike, color: Color | None = None) -> NDArray[np.uint8]:
    """The pixels of an image.

    Args:
        image: One of:

            * a path, a file:// address, or an http(s) address (fetched with a timeout, at most 512 MiB);
            * the bytes of an image file, or a binary file open for reading: every format of
              :func:`rtmo_deploy.data.images.read_image`, by the same checks;
            * a Pillow image of any mode but ``F`` and ``I``: upright by its EXIF, alpha dropped, 16 bits to 8;
            * a uint8 array ``(H, W, 3)``, ``(H, W, 4)`` (alpha dropped), ``(H, W)`` or ``(H, W, 1)`` (grey);
            * a torch tensor ``(3, H, W)`` or ``(1, H, W)``, uint8 or float from 0 to 1, on any device.

        color: Order of the channels of an array or tensor, ``bgr`` or ``rgb``. By default arrays are BGR, as OpenCV
            reads them, and tensors RGB, as torchvision does.

    Returns:
        ``(H, W, 3)`` uint8, BGR; of a BGR array a view.

    Raises:
        InputDataError: It cannot be read or fetched, or is damaged or too large.
        UsageError: It is none of these.
    """
    return pixels_of(kept_of(image, color))


def kept_of(image: ImageLike, color: Color | None = None) -> Kept:
    """What is kept of an image in order to see it again: its path, the bytes of its file, or its pixels."""
    if color not in (None, "bgr", "rgb"):
        raise UsageError(f"There is no order of channels '{color}'.", remedy="Use 'bgr' or 'rgb'.")
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        if isinstance(name, str) and _ADDRESS.match(name):
            return fetch_image(name)
        return local_path(image, InputDataError) if is_file_address(name) else image
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _of_array(image, color or "bgr")
    if is_tensor(image):
        return _of_tensor(image, color or "rgb")
    if "PIL.Image" in sys.modules and isinstance(image, sys.modules["PIL.Image"].Image):
        return pillow_pixels(image)
    if hasattr(image, "read"):
        try:
            data: object = image.read(MAX_BYTES + 1)
        except UnicodeDecodeError:
            data = None
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise InputDataError(f"The file cannot be read: {error}.", remedy="Open it again.") from error
        if not isinstance(data, bytes):
            raise UsageError("The file is open for text.", remedy="Open it in binary mode: open(path, 'rb').")
        return data
    raise UsageError(
        f"A {type(image).__name__} is not an image.",
        remedy="Give a path, an address, bytes, an open file, a Pillow image, a uint8 array or a tensor.",
    )


def is_tensor(image: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a torch tensor; without loading torch."""
    return "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor)


def pixels_of(kept: Kept) -> NDArray[np.uint8]:
    """The BGR pixels of what :func:`kept_of` gave."""
    if isinstance(kept, np.ndarray):
        return kept
    if isinstance(kept, bytes):
        return decode_image(kept)
    return read_image(kept) if isinstance(kept, str | os.PathLike) else kept.cpu().numpy()


def _of_array(array: NDArray[Any], color: Color) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise UsageError(
            f"The array is {array.dtype}, and an image is uint8, 0 to 255.",
            remedy="Scale and convert it; from 0..1: (array * 255).round().astype(np.uint8).",
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4} or 0 in array.shape:
        raise UsageError(
            f"The uint8 array is {array.shape}, and an image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).",
            remedy="From (3, H, W): array.transpose(1, 2, 0)." if array.ndim == 3 else "Give one image, or a list.",
        )
    if array.shape[2] == 1:
        return np.repeat(np.asarray(array), 3, axis=2)
    return np.asarray(array)[..., 2::-1] if color == "rgb" else np.asarray(array)[..., :3]


def _of_tensor(tensor: torch.Tensor, color: Color) -> NDArray[np.uint8] | torch.Tensor:
    import torch

    if tensor.ndim != 3 or tensor.shape[0] not in {1, 3} or 0 in tensor.shape:
        raise UsageError(
            f"The tensor is {tuple(tensor.shape)}, and an image is (3, H, W) or (1, H, W).",
            remedy="From (H, W, 3): tensor.permute(2, 0, 1).",
        )
    tensor = tensor.detach()
    if tensor.layout is not torch.strided or tensor.is_meta:
        kind = "on the meta device" if tensor.is_meta else str(tensor.layout)
        raise UsageError(f"The tensor is {kind}, and an image is a dense one.", remedy="Give its values: .to_dense().")
    if tensor.is_floating_point():
        tensor = tensor.float()
        if not (tensor.min() >= 0 and tensor.max() <= 1):
            raise UsageError(
                "The tensor has floats outside 0 to 1, or that are not numbers.",
                remedy="Scale it to 0..1, or from 0..255: tensor.round().to(torch.uint8).",
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    if tensor.dtype != torch.uint8:
        raise UsageError(f"The tensor is {tensor.dtype}, and an image is uint8 or float from 0 to 1.")
    if not tensor.is_cuda:
        return _of_array(tensor.permute(1, 2, 0).cpu().numpy(), color)
    tensor = tensor.expand(3, -1, -1)
    return (tensor.flip(0) if color == "rgb" else tensor).permute(1, 2, 0)
