"""What a server does with an image or a tensor: decode, batch, run, choose."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.data.images import Decoded, max_pixels_allowed, read_to_fit
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.media.results import SCHEMA_VERSION, people_of
from rtmo_deploy.runtime.decode import without_weak_keypoints
from rtmo_deploy.runtime.draw import drawn_colours
from rtmo_deploy.runtime.estimator import precision_of
from rtmo_deploy.runtime.thresholds import decode_for
from rtmo_deploy.serve.batcher import Batcher
from rtmo_deploy.serve.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.estimator import RTMO, Placed
    from rtmo_deploy.runtime.thresholds import Thresholds
    from rtmo_deploy.serve.batcher import Slot
    from rtmo_deploy.serve.options import ServeOptions


@dataclass(frozen=True)
class Wanted:
    """Which detections a request wants: what the network needs to know, and what is chosen afterwards."""

    key: tuple[tuple[str, Any], ...] = ()  #: Thresholds of the run; requests of equal ones run together.
    score_thr: float | None = None
    kpt_thr: float | None = None
    max_people: int | None = None

    @classmethod
    def of(cls, artifact: Artifact, thresholds: Thresholds) -> Wanted:
        """What these thresholds ask of a model; UsageError where they cannot be had."""
        decode_for(artifact, **thresholds)
        score_thr, nms_thr = thresholds.get("score_thr"), thresholds.get("nms_thr")
        lower = score_thr is not None and score_thr < artifact.decode.score_thr
        run = {"score_thr": score_thr if lower else None, "nms_thr": nms_thr}
        key = tuple((name, value) for name, value in run.items() if value is not None)
        return cls(key, score_thr, thresholds.get("kpt_thr"), thresholds.get("max_people"))

    def choose(self, poses: Poses) -> Poses:
        """The detections that are wanted, of all that were found."""
        if self.score_thr is not None:
            poses = poses[poses.scores > self.score_thr]
        return without_weak_keypoints(poses[: self.max_people], self.kpt_thr)


#: Pixels of a decoded image that is kept until the network has run, which may be long: a larger one is decoded again.
_KEPT_PIXELS: Final = 2**22


@dataclass(frozen=True)
class Found:
    """What was found in an image."""

    poses: Poses  #: In pixels of the image; before :meth:`Wanted.choose`.
    image_hw: tuple[int, int]
    pixels: NDArray[np.uint8] | None  #: The image, if it is small and was decoded whole.
    batch: int  #: How many images ran together.
    timings_ms: dict[str, float]


class Service:
    """A model and everything that serves it. Made in the event loop that it works in.

    Args:
        model: Opened; it stays the caller's.
        options: As the server was asked.
    """

    def __init__(self, model: RTMO, options: ServeOptions) -> None:
        self.model, self.options, self.artifact = model, options, model.artifact
        self.draining = False  #: No more work is taken soon.
        self.stopping = asyncio.Event()  #: Set after it: streams end.
        self.forced = False  #: Nothing is waited for any more.
        self.cameras = 0  #: Streams that are open.
        own = self.artifact.input.batch
        self.batcher = Batcher(
            self._run,
            most=own or options.max_batch,
            delay_s=options.max_delay_ms / 1000,
            slots=options.queue,
            timeout_s=options.timeout_s,
        )
        self.metrics = Metrics(
            depth=lambda: self.batcher.depth, taken=lambda: self.batcher.taken, model=self.facts(model)
        )
        self._work: asyncio.Task[None] | None = None
        self._readers = ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), "reader")

    @staticmethod
    def facts(model: RTMO) -> dict[str, str]:
        """What runs, in words."""
        return {
            "file": model.artifact.path.name,
            "architecture": model.artifact.architecture,
            "backend": model.backend.name,
            "device": model.backend.device,
            "precision": precision_of(model.backend),
        }

    def describe(self) -> dict[str, Any]:
        """What ``GET /model`` answers; the skeleton has colours, so that pages draw like ``predict``."""
        skeleton = self.artifact.skeleton
        points, edges = drawn_colours(skeleton)
        colours = {"keypoint_colours": points, "edge_colours": edges}
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.options.name,
            **self.facts(self.model),
            "input_hw": list(self.model.input_hw),
            "skeleton": {**skeleton.to_dict(), **colours},
            "score_thr": self.artifact.decode.score_thr,
            "limits": {
                "max_bytes": self.options.max_bytes,
                "max_pixels": max_pixels_allowed(),
                "max_batch": self.batcher.most,
                "queue": self.options.queue,
                "timeout_s": self.options.timeout_s,
            },
            "note": self.artifact.note,
        }

    def warm_up(self) -> None:
        """Run the network once on grey images, alone and as a full batch."""
        image = np.full((*self.model.input_hw, 3), 114, np.uint8)
        for size in sorted({1, self.batcher.most}):
            self.model.detect([self.model.place(image)] * size)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Within the block, batches run; the threads end with it."""
        self._work = asyncio.create_task(self.batcher.work())
        try:
            yield
        finally:
            self._work.cancel()
            self.batcher.close(wait=not self.forced)
            self._readers.shutdown(wait=not self.forced, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether the network's worker still works."""
        return self._work is not None and not self._work.done() and not self.batcher.stuck

    @property
    def ready(self) -> bool:
        """Whether more work is taken."""
        return self.alive and not self.draining

    async def aside(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Do something that takes a processor for a while in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(work, *arguments, **named))

    async def find(self, slot: Slot, data: bytes | NDArray[np.uint8], wanted: Wanted) -> Found:
        """Find the people in the bytes of an image file, or in pixels ``(h, w, 3)``, BGR.

        Raises:
            InputDataError: It is no image, damaged or too large.
            BusyError: It waited too long.
        """
        start = time.perf_counter()
        image_hw, pixels, placed = await self.aside(self._read, data)
        read = time.perf_counter()
        done = await self.batcher.submit(slot, ("images", wanted.key), placed)
        timings = {"decode": read - start, "queue": done.queue_s, "inference": done.run_s}
        timings_ms = {name: round(seconds * 1000, 3) for name, seconds in timings.items()}
        return Found(done.value, image_hw, pixels, done.batch, timings_ms)

    async def run(self, slot: Slot, tensor: NDArray[np.float32]) -> tuple[Mapping[str, NDArray[np.float32]], Any]:
        """The network's outputs for a tensor ``(B, 3, H, W)``, as if it ran alone; and how it ran.

        Raises:
            UsageError: The network does not take it.
            BusyError: It waited too long.
        """
        await self.aside(self._require, tensor)
        # Rows that are no detections come with every batch size in another number: such graphs run alone.
        alone = id(slot) if self.artifact.decode.junk_rows else None
        done = await self.batcher.submit(slot, ("tensors", tensor.shape[2:], alone), tensor, len(tensor))
        self.metrics.timed({"queue": done.queue_s * 1000, "inference": done.run_s * 1000})
        return done.value, done

    def document(self, poses: Poses, image_hw: tuple[int, int], **more: Any) -> dict[str, Any]:
        """The JSON answer for an image."""
        height, width = image_hw
        head = {"schema_version": SCHEMA_VERSION, "model": self.options.name, "skeleton": poses.skeleton.name}
        return {**head, "width": width, "height": height, "people": people_of(poses), **more}

    def _read(self, data: bytes | NDArray[np.uint8]) -> tuple[tuple[int, int], NDArray[np.uint8] | None, Placed]:
        if isinstance(data, bytes):
            decoded = read_to_fit(data, self.model.fit_hw)
        else:
            decoded = Decoded(data, 1, (data.shape[0], data.shape[1]))
        whole = decoded.pixels if decoded.factor == 1 else None
        placed = self.model.place(decoded if whole is None else whole)
        kept = whole if whole is not None and whole.shape[0] * whole.shape[1] <= _KEPT_PIXELS else None
        return decoded.image_hw, kept, placed

    def _require(self, tensor: NDArray[np.float32]) -> None:
        contract, sides = self.artifact.input, tensor.shape[2:]
        words = (
            f"multiples of {contract.multiple}" if contract.dynamic_hw else f"{contract.height} and {contract.width}"
        )
        fits = not any(side % contract.multiple for side in sides)
        fits = fits if contract.dynamic_hw else sides == (contract.height, contract.width)
        if tensor.shape[1] != 3 or not fits:
            remedy = f"Give [images, 3, height, width]; height and width are {words}."
            raise UsageError(f"The tensor is {list(tensor.shape)}.", remedy=remedy)
        if contract.batch is not None and len(tensor) > contract.batch:
            finding = f"The tensor holds {len(tensor)} images; the model takes {contract.batch} at a time."
            raise UsageError(finding, remedy="Send them in several requests.")
        if not np.isfinite(tensor).all():
            raise UsageError("The tensor holds numbers that are not finite.", remedy="Values are from 0 to 255.")

    def _run(self, key: tuple[Any, ...], payloads: Sequence[Any]) -> Sequence[Any]:
        """A batch, in the network's thread."""
        self.metrics.batches.observe(sum(map(len, payloads)) if key[0] == "tensors" else len(payloads))
        if key[0] == "images":
            return self.model.detect(payloads, **dict(key[1]))
        backend = self.model.backend
        tensor = np.concatenate(payloads)
        missing = max(0, (self.artifact.input.batch or 0) - len(tensor))
        outputs = backend(np.concatenate([tensor, *([tensor[-1:]] * missing)]))
        ends = np.cumsum([len(one) for one in payloads])
        parts = [
            {name: output[end - len(one) : end] for name, output in outputs.items()}
            for one, end in zip(payloads, ends, strict=True)
        ]
        grows = self.artifact.decode.mode is DecodeMode.ONNX or self.artifact.kind is Kind.CHECKPOINT
        if grows and len(payloads) > 1:
            return [self._trimmed(part) for part in parts]
        return parts

    def _trimmed(self, outputs: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        """Without rows that only others of the batch had use for."""
        used = np.flatnonzero((outputs["dets"][..., 4] > 0).any(axis=0))
        rows = max(int(used[-1]) + 1 if len(used) else 0, self.artifact.decode.min_rows)
        return {name: output[:, :rows] for name, output in outputs.items()}
