"""The options of a Triton repository, declared once: the library takes them, the command offers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rtmo_deploy.option import option, settle


@dataclass(frozen=True)
class TritonOptions:
    """How Triton runs a model. None stands for the model's own value.

    Raises:
        UsageError: A value is out of range.
    """

    backend: Literal["auto", "onnxruntime", "tensorrt", "openvino", "python"] = option(
        "auto",
        "Triton backend of the network. auto: what fits the file. python: ONNX Runtime in Triton's Python backend.",
    )
    device: str = option("auto", "cpu, cuda, cuda:1, ... [default: a GPU for engines, else cpu]", show_default=False)
    #: Height and width in pixels that images are letterboxed to.
    imgsz: tuple[int, int] | None = option(None, "Letterbox images to this size. [default: the model's own]")
    max_batch: int | None = option(None, "Most images in one run. [default: 8, or what the model takes]", min=1)
    queue_delay_us: int = option(1000, "Microseconds that the first image of a batch waits for others.", min=0)
    max_queue: int = option(64, "Requests that wait for a step; more are refused.", min=1)
    timeout_ms: int = option(5000, "Milliseconds that a request may wait for a step; 0 for no limit.", min=0)
    instances: int = option(1, "Copies of the network that run side by side.", min=1)
    threads: int | None = option(None, "CPU threads of each copy. [default: the runtime's choice]", min=1)
    score_thr: float | None = option(None, "Scores must be above this. [default: the model's]", min=0, max=1)
    nms_thr: float | None = option(None, "Suppress overlaps above this IoU. [default: the model's]", min=0, max=1)
    kpt_thr: float | None = option(None, "Keypoints below this score get score 0.", min=0, max=1)
    max_people: int | None = option(None, "Keep only the best so many people of an image.", min=1, metavar="N")

    def __post_init__(self) -> None:
        settle(self)
