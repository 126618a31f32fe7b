"""RTMO: images in, poses out, whatever runs underneath."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, Unpack, overload

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.data.images import read_to_fit
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, FORMATS, MODEL, Format, Kind, likely_kind, require
from rtmo_deploy.option import converted
from rtmo_deploy.runtime.backends import Backend, open_backend, parse_device
from rtmo_deploy.runtime.choice import choose, is_measured
from rtmo_deploy.runtime.decode import coordinates_of, finished, outputs_to_poses
from rtmo_deploy.runtime.inputs import is_tensor, kept_of, pixels_of
from rtmo_deploy.runtime.letterbox import WARP_LIMIT, LetterboxTransform, Placement, letterbox, to_tensor
from rtmo_deploy.runtime.thresholds import Thresholds, decode_for, require_count
from rtmo_deploy.zoo.locate import locate_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rtmo_deploy.data.images import Decoded
    from rtmo_deploy.media.frame import Event, Frame
    from rtmo_deploy.media.sources import Given, Source
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.inputs import Color, ImageLike, Kept
    from rtmo_deploy.runtime.stream import Policy

_log = logging.getLogger("rtmo_deploy")


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a checkpoint, by its bytes; by its suffix where they do not tell."""
    return likely_kind(Path(path)) in CHECKPOINT.kinds


def read_artifact(path: str | os.PathLike[str], *, trust: bool = False) -> Artifact:
    """What a file is: a checkpoint, an engine, an OpenVINO or an ONNX model, by its bytes.

    Args:
        path: The file.
        trust: Take an engine, which is executable code, even if its record is missing or belongs to other bytes.

    Raises:
        ModelError: It is none of these, damaged, or not to be trusted.
    """
    path = Path(path)
    kind = require(path, MODEL)
    if kind in CHECKPOINT.kinds:
        from rtmo_deploy.model import load_checkpoint

        return load_checkpoint(path).artifact()
    more = {"trust": trust} if kind is Kind.ENGINE else {}
    artifact: Artifact = Format.load(FORMATS[kind].reader)(path, **more)
    return artifact


class Placed(NamedTuple):
    """A letterboxed image."""

    canvas: NDArray[np.uint8] | torch.Tensor  #: ``(H, W, 3)`` uint8, BGR; on a GPU ``(3, H, W)`` float32, 0 to 255.
    transform: LetterboxTransform


class RTMO:
    """Finds people and their keypoints in images.

    >>> import numpy as np
    >>> from rtmo_deploy import RTMO
    >>> model = RTMO("rtmo-n", device="cpu")
    >>> model
    RTMO('rtmo-n.pth', backend='torch', device='cpu', precision='fp32', input_hw=(352, 352))
    >>> grey = np.full((480, 640, 3), 114, np.uint8)
    >>> poses = model(grey)
    >>> len(poses), poses.keypoints.shape, poses.image_hw
    (0, (0, 17, 2), (480, 640))

    A model may be used by several threads at a time. It is a context manager that closes itself; pickled or copied, it
    opens its file again.

    Args:
        model: A file (checkpoint, ONNX model or a ``.zip`` around one, OpenVINO ``.xml``, TensorRT engine); an address
            (``https://``, ``hf://OWNER/REPOSITORY/PATH[@REVISION]``, ``file://``) or a name such as ``rtmo-s``, which
            are fetched if need be; or an opened backend, to which only ``input_hw`` and ``reduce`` apply.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes cuda:0 where the runtime can use it, else cpu. The
            choice and its reason are logged (``rtmo_deploy``, INFO).
        backend: ``torch``, ``onnxruntime``, ``openvino`` or ``tensorrt``; ``auto`` takes what fits the file, or with a
            ``precision`` what is fastest.
        input_hw: Height and width that images are letterboxed to, multiples of 32; the model's own if not given.
        threads: Threads a CPU runtime may use; its own choice if not given.
        precision: What floats are computed in, where the runtime has a choice; see :func:`open_backend`. On the CPU
            ``auto`` takes the fastest runtime and precision that find the same people, or the fastest precision of the
            ``backend`` that is named; that is measured once for each model and machine (``rtmo-deploy tune``), and an
            INT8 file beside the model may run in its place. The choice is logged. Checkpoints, engines and models on
            a GPU run as without it.
        trust: Load an engine, which is code, even if its record is missing or belongs to other bytes.
        reduce: Decode JPEG files at 1/2, 1/4 or 1/8 of their size where that is still as large as what is letterboxed.
            It is faster, and results differ slightly; they are in pixels of the whole image all the same.

    Raises:
        ModelError: The file cannot be used.
        SetupError: A package or the device is missing.
        UsageError: There is no such model, or it does not take that size.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Backend,
        *,
        device: str = "auto",
        backend: str | None = "auto",
        input_hw: tuple[int, int] | None = None,
        threads: int | None = None,
        precision: str | None = None,
        trust: bool = False,
        reduce: bool = False,
    ) -> None:
        if threads is not None:
            require_count(threads=threads)
        self._closed = False
        self._reopen: Callable[[], RTMO] | None = None
        if isinstance(model, str | os.PathLike):
            how: dict[str, Any] = {"backend": backend, "threads": threads, "precision": precision}
            artifact = read_artifact(locate_model(model), trust=trust)
            self._backend = open_model(artifact, device, input_hw=input_hw, **how)
            self._reopen = partial(RTMO, model, device=device, input_hw=input_hw, trust=trust, reduce=reduce, **how)
        elif isinstance(getattr(model, "artifact", None), Artifact) and not hasattr(model, "predict"):
            self._backend = model
        else:
            raise UsageError(
                f"A {type(model).__name__} is not a model.",
                remedy="Give a file, the name of a published model, or a backend.",
            )
        self.artifact = self.backend.artifact
        contract = self.artifact.input
        own = (contract.height, contract.width)
        if input_hw is not None:
            try:
                input_hw = converted(input_hw, tuple[int, int])
            except (TypeError, ValueError):
                remedy = "Give two whole numbers: (height, width)."
                raise UsageError(f"input_hw is {input_hw!r}.", remedy=remedy) from None
        if input_hw not in {None, own} and not contract.dynamic_hw:
            raise UsageError(
                f"{self.artifact.path.name} takes images of {own[0]}x{own[1]} only.",
                remedy="Leave --imgsz away, or export the model without --static.",
            )
        self.input_hw = input_hw or own
        if any(side < 1 or side % contract.multiple for side in self.input_hw):
            raise UsageError(
                f"Images cannot be letterboxed to {self.input_hw[0]}x{self.input_hw[1]} (height x width).",
                remedy=f"Both must be positive multiples of {contract.multiple}.",
            )
        #: The size that JPEG files may be decoded for; None where they are decoded whole.
        self.fit_hw = self.input_hw if reduce else None
        #: The classifier that a ``raw`` graph leaves to the host; None for other graphs.
        self.coordinates = coordinates_of(self.artifact)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, device: str = "cpu", **options: Any) -> RTMO:
        """The same as ``RTMO(path, ...)``, on the CPU unless asked otherwise."""
        return cls(path, device=device, **options)

    def __repr__(self) -> str:
        if self._closed:
            return f"RTMO({self.artifact.path.name!r}, closed)"
        precision = precision_of(self.backend)
        return (
            f"RTMO({self.artifact.path.name!r}, backend={self.backend.name!r}, device={self.backend.device!r}, "
            f"{precision=}, input_hw={self.input_hw})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the runtime's memory back, once running calls are done; a later call is a UsageError."""
        self._closed = True
        backend = self.__dict__.pop("_backend", None)
        if self._reopen is not None and hasattr(backend, "close"):
            backend.close()
        self.coordinates = None

    def __reduce__(self) -> tuple[Callable[[], RTMO], tuple[()]]:
        if self._reopen is None:
            raise TypeError("an RTMO made from an opened backend cannot be pickled or copied; make it from the file")
        return self._reopen, ()

    @overload
    def __call__(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        *,
        batch: int = 8,
        color: Color | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> list[Poses]: ...
    @overload
    def __call__(
        self, image: ImageLike, *, batch: int = 8, color: Color | None = None, **thresholds: Unpack[Thresholds]
    ) -> Poses: ...
    def __call__(
        self,
        image: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
        *,
        batch: int = 8,
        color: Color | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> Poses | list[Poses]:
        """People in one image, or a list of them for a list of images; see :meth:`predict`.

        Args:
            image: A path or an http(s) address, the bytes of an image file or an open one, a Pillow image, an array or
                a tensor, as :func:`rtmo_deploy.runtime.inputs.to_bgr` takes them; or a list of these, of any kinds and
                sizes. An array or tensor of four dimensions is a list.
            batch: As for :meth:`predict`.
            color: ``bgr`` or ``rgb``: the order of channels; by default BGR for arrays and RGB for tensors.
            **thresholds: See :class:`Thresholds`.
        """
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            several: Any = image
            return self.predict(several, batch=batch, color=color, **thresholds)
        one: Any = image
        return self.predict([one], color=color, **thresholds)[0]

    def predict(
        self,
        images: Iterable[ImageLike],
        *,
        batch: int = 8,
        color: Color | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> list[Poses]:
        """People in each image, in pixels of that image, best first.

        What the graph of an exported model has decided cannot be undone: a lower ``score_thr``, a higher ``nms_thr``
        or more people than it puts out are refused. Checkpoints and ``raw`` graphs take any. A lower ``nms_thr`` is
        applied to the detections that the graph has kept.

        Args:
            images: As for a call, of any kinds and sizes. A result keeps its image, to draw it: the path of one that
                was read, else the pixels; :meth:`stream` keeps none.
            batch: Images that are read and run at a time; a model with a fixed batch size takes that many.
            color: As for a call.
            **thresholds: See :class:`Thresholds`.

        Raises:
            InputDataError: An image cannot be read.
            ArtifactError: The network puts out something that is not a number.
            UsageError: ``batch`` is not positive, a threshold is out of range or cannot be had, or something is no
                image.
        """
        one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Mapping)
        if one or hasattr(images, "read") or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
            raise UsageError("predict takes several images.", remedy="Give a list, or call the model with the image.")
        require_count(batch=batch)
        decode_for(self.artifact, **thresholds)
        size = self.artifact.input.batch or batch
        found: list[Poses] = []
        waiting = iter(images)
        while chunk := [kept_of(image, color) for image in islice(waiting, size)]:
            placed = [self._placed(image) for image in chunk]
            poses = self.detect(placed, **thresholds)
            found += [replace(one, source=image) for one, image in zip(poses, chunk, strict=True)]
        return found

    def _placed(self, image: Kept) -> Placed:
        """Letterbox an image; one on a GPU stays there where the runtime takes it."""
        if self.fit_hw is not None and isinstance(image, str | os.PathLike | bytes):
            return self.place(read_to_fit(image, self.fit_hw))
        if not is_tensor(image) or self.backend.name != "torch" or max(image.shape) > WARP_LIMIT:
            return self.place(pixels_of(image))
        from rtmo_deploy.runtime.torch_letterbox import letterbox_tensor

        return Placed(*letterbox_tensor(image, self.input_hw, Placement(self.artifact.input.placement)))

    @property
    def backend(self) -> Backend:
        """The runtime that it runs in; UsageError once it is closed."""
        if self._closed:
            raise UsageError("The model is closed.", remedy="Open it again.", where=self.artifact.path.name)
        return self._backend

    def place(self, image: NDArray[np.uint8] | Decoded) -> Placed:
        """Letterbox an image, ``(h, w, 3)`` uint8 BGR, as the model takes it; or one decoded at a reduced scale."""
        return Placed(*letterbox(image, self.input_hw, Placement(self.artifact.input.placement)))

    def tensor(self, placed: Sequence[Placed]) -> NDArray[np.float32] | torch.Tensor:
        """The network's input for letterboxed images, ``(B, 3, H, W)`` float32; on a GPU if all of them are.

        A model with a fixed batch size is fed its last image again to fill the batch.

        Raises:
            UsageError: There is none, or one was not letterboxed with :meth:`place`.
        """
        if not placed or not all(isinstance(one, Placed) for one in placed):
            raise UsageError("These are no letterboxed images.", remedy="Give what place() returns, or call the model.")
        canvases: list[Any] = [one.canvas for one in placed]
        if all(map(is_tensor, canvases)):
            import torch

            return torch.stack(canvases)
        arrays = [canvas.permute(1, 2, 0).byte().cpu().numpy() if is_tensor(canvas) else canvas for canvas in canvases]
        return to_tensor(arrays + [arrays[-1]] * ((self.artifact.input.batch or 0) - len(arrays)))

    def detect(self, placed: Sequence[Placed], **thresholds: Unpack[Thresholds]) -> list[Poses]:
        """People in letterboxed images, at most as many as the model takes at a time; see :meth:`predict`."""
        run: Any = self.backend
        decode = decode_for(self.artifact, **thresholds)
        tensor = self.tensor(placed)
        own = self.artifact.kind is not Kind.CHECKPOINT or decode == self.artifact.decode
        outputs = run(tensor) if own else run(tensor, decode)
        artifact = replace(self.artifact, decode=decode)
        found = outputs_to_poses(outputs, self.input_hw, artifact, self.coordinates)[: len(placed)]
        limits = thresholds.get("max_people"), thresholds.get("kpt_thr")
        return [finished(poses, one.transform, artifact, *limits) for poses, one in zip(found, placed, strict=True)]

    def stream(
        self,
        source: Given | Sequence[Given],
        *,
        stride: int = 1,
        policy: Policy = "all",
        batch: int = 8,
        hwaccel: str | None = None,
        recursive: bool = False,
        on_event: Callable[[Event], None] | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> Iterator[Frame]:
        """Frames with their poses, of images, videos, cameras and streams; memory does not grow with their length.

        Args:
            source: What :func:`rtmo_deploy.media.sources.find_sources` takes: files, folders, patterns, a camera's
                index, addresses, a list in a ``.txt``; one or several.
            stride: Takes every n-th frame of a video or stream.
            policy: What happens to a live source that is faster than the network: ``all`` lets it wait, ``newest``
                skips frames.
            batch: Most frames in one run of the network.
            hwaccel: Hardware that decodes videos, such as ``cuda``; ``auto`` takes what there is, else the CPU.
            recursive: Whether to search folders in folders.
            on_event: Called from other threads with what cannot be read, lost streams and so on; logged if not given.
            **thresholds: See :class:`Thresholds`.

        Yields:
            Frame: In order within each source.

        Raises:
            InputDataError: A source is missing, or nothing could be read, and no ``on_event`` was given.
            UsageError: A number or a threshold is out of range or cannot be had.
        """
        from rtmo_deploy.runtime.stream import stream

        how: dict[str, Any] = {"stride": stride, "policy": policy, "batch": batch, "hwaccel": hwaccel}
        how["fit_hw"] = self.fit_hw
        return stream(self, self._sources(source, recursive, on_event), on_event=on_event, **how, **thresholds)

    def track(
        self,
        source: Given | Sequence[Given],
        *,
        smooth: bool = False,
        recursive: bool = False,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Iterator[Frame]:
        """As :meth:`stream`, with ``track_ids`` of the people in each video and stream; still images have none.

        Args:
            source: As for :meth:`stream`.
            smooth: Whether to smooth keypoints and boxes over time.
            recursive: As for :meth:`stream`.
            on_event: As for :meth:`stream`.
            **options: As for :meth:`stream`. Detections that ``score_thr`` and ``max_people`` leave out help to follow
                people.
        """
        from rtmo_deploy.runtime.stream import stream

        how: dict[str, Any] = {"smooth": smooth, "fit_hw": self.fit_hw, **options}
        return stream(self, self._sources(source, recursive, on_event), track=True, on_event=on_event, **how)

    def _sources(
        self, given: Given | Sequence[Given], recursive: bool, on_event: Callable[[Event], None] | None
    ) -> list[Source]:
        from rtmo_deploy.media.frame import Event
        from rtmo_deploy.media.sources import find_sources

        self.backend  # noqa: B018 - a closed model says so
        sources, failures = find_sources(given, recursive=recursive)
        for error in failures:
            if on_event is None:
                raise error
            on_event(Event(error.where or "", "failed", str(error), error))
        return sources


#: The name in earlier releases.
PoseEstimator = RTMO


def open_model(
    artifact: Artifact,
    device: str = "auto",
    *,
    backend: str | None = "auto",
    threads: int | None = None,
    precision: str | None = None,
    input_hw: tuple[int, int] | None = None,
) -> Backend:
    """Open an artifact as :class:`RTMO` does with the same arguments; what runs, and why there, is logged."""
    how: dict[str, Any] = {"backend": backend, "threads": threads}
    why, opened = "", None
    measured = is_measured(artifact.kind, backend, precision)
    given = None if precision == "auto" else precision
    if device == "auto" and measured and given is not None:
        device = "cpu"  # no runtime of a GPU has a choice of precisions
    if device == "auto":
        try:
            opened = open_backend(artifact, "cuda:0", precision=given, **how)
        except SetupError as error:
            if artifact.kind is Kind.ENGINE:
                raise
            device, why = "cpu", f" {error.finding}"
    if opened is None and measured and parse_device(device) == "cpu":
        choice = choose(artifact, precision=precision, input_hw=input_hw, **how)
        chosen = artifact if choice.path == artifact.path else read_artifact(choice.path)
        opened = open_backend(chosen, "cpu", backend=choice.backend, threads=threads, precision=choice.precision)
        _log.info("%s%s", choice.sentence, why)
        return opened
    if opened is None:
        opened = open_backend(artifact, device, precision=given, **how)
    _log.info("%s: %s on %s, %s.%s", artifact.path.name, opened.name, opened.device, precision_of(opened), why)
    return opened


def precision_of(backend: Backend) -> str:
    """What a backend computes in; a backend without facts computes what its artifact says."""
    return str(getattr(backend, "facts", {}).get("runtime_precision") or backend.artifact.precision)
