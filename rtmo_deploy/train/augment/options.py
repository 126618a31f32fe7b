"""What is done to a training sample, and how strongly: the numbers of the published recipes.

The sources are the configurations of MMPose 1.3.2 (``configs/body_2d_keypoint/rtmo``) and the defaults of the
transforms they name. The reference trains in two stages: mosaic, affine, mixup, colours and flip for most
epochs, then whole images for the last 20 (CrowdPose: 30).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_HSV = (5, 30, 30)


@dataclass(frozen=True)
class AffineOptions:
    """Move the content of the input about the input's centre; every number is drawn evenly.

    mmpose's ``BottomupRandomAffine`` in its ``perspective`` mode (there is no perspective in it). Its centre is
    that of the *input*, not of the twice as large mosaic it is applied to, so at these scales the input shows
    the mosaic's upper left part: the image the sample is named after, and what its partners lend it on the
    right and below. ``border``, with which YOLOX looks at the middle, is accepted there and not used.

    Attributes:
        shift: Furthest move, as a fraction of the input's width and height.
        rotate: Largest turn either way, degrees.
        scale: Smallest and largest enlargement.
        shear: Largest shear in x and in y either way, degrees. The recipes do not name it; 2 is the default
            that they train with.
    """

    shift: float = 0.1
    rotate: float = 10.0
    scale: tuple[float, float] = (0.75, 1.0)
    shear: float = 2.0


@dataclass(frozen=True)
class WindowOptions:
    """Look at the image through a window that is moved, turned and resized before it is letterboxed.

    mmpose's ``BottomupRandomAffine`` in its ``affine`` mode. Every number is drawn from a normal distribution
    cut off at one standard deviation, as there. These defaults are what the reference's rtmo-m and rtmo-l for
    COCO and body7 get in their last epochs: their recipes leave out the three zeros with which those of the
    smaller models, and of CrowdPose, switch it off.

    Attributes:
        shift: Furthest move of the window, as a fraction of the image's width and height.
        rotate: Largest turn either way, degrees.
        window: Smallest and largest size of the window; 1 is the whole image, less is a closer look.
    """

    shift: float = 0.2
    rotate: float = 30.0
    window: tuple[float, float] = (0.75, 1.5)


@dataclass(frozen=True)
class AugmentOptions:
    """Everything an :class:`~rtmo_deploy.train.augment.Augmenter` needs to know.

    The defaults only letterbox the image; the class methods have the published recipes.

    Attributes:
        input_hw: Height and width of the network input, multiples of 32.
        mosaic: Probability that four images are put together, 0 to 1.
        mosaic_centre: Where they meet: smallest and largest fraction of the input's width and height, in a
            canvas of twice the input's size.
        affine: The geometric jitter. None: an image is letterboxed, and so is a whole mosaic.
        mixup: Probability that another image is blended in half and half, 0 to 1.
        mixup_scale: Smallest and largest enlargement of that image over its letterboxed size.
        hsv: Largest change, either way, of hue (in 2 degrees, 0 to 180 for the circle), saturation and value
            (of 255). Each of the three is changed in half of the samples.
        flip: Probability that the sample is mirrored, 0 to 1.
        ignore: Whether the sample keeps its mask of people who are not to be learned. The reference makes that
            mask only in the last epochs.
        min_box: Width and height, in input pixels, that a person's clipped box must exceed to be kept.
        min_keypoints: Labelled keypoints inside the input that a person must have to be kept.
    """

    input_hw: tuple[int, int] = (640, 640)
    mosaic: float = 0.0
    mosaic_centre: tuple[float, float] = (0.5, 1.5)
    affine: AffineOptions | WindowOptions | None = None
    mixup: float = 0.0
    mixup_scale: tuple[float, float] = (0.8, 1.6)
    hsv: tuple[int, int, int] = (0, 0, 0)
    flip: float = 0.0
    ignore: bool = True
    min_box: float = 1.0
    min_keypoints: int = 1

    @classmethod
    def coco(cls, input_hw: tuple[int, int] = (640, 640), *, mixup: bool = True) -> AugmentOptions:
        """The first stage for COCO and body7. rtmo-t is trained at 416x416 without mixup."""
        return cls(input_hw, mosaic=1.0, affine=AffineOptions(), mixup=float(mixup), hsv=_HSV, flip=0.5, ignore=False)

    @classmethod
    def crowdpose(cls, input_hw: tuple[int, int] = (640, 640)) -> AugmentOptions:
        """The first stage for CrowdPose. Body7 with CrowdPose's keypoints is trained as :meth:`coco`."""
        affine = AffineOptions(shift=0.2, rotate=30.0, scale=(0.5, 1.5))
        return replace(cls.coco(input_hw), affine=affine, mixup_scale=(0.6, 1.6))

    @classmethod
    def last_epochs(
        cls, input_hw: tuple[int, int] = (640, 640), *, window: WindowOptions | None = None
    ) -> AugmentOptions:
        """The second stage: one letterboxed image, its colours changed, mirrored half of the time.

        With ``WindowOptions()`` it is what rtmo-m and rtmo-l of COCO and body7 get.
        """
        return cls(input_hw, affine=window, hsv=_HSV, flip=0.5)
