"""Frames of images, videos and streams in; result files and videos out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.media.frame import Event, Frame
    from rtmo_deploy.media.sources import Source, find_sources, open_source
    from rtmo_deploy.media.video import VideoInfo, video_info
    from rtmo_deploy.media.video_writer import VideoWriter

__all__ = ["Event", "Frame", "Source", "VideoInfo", "VideoWriter", "find_sources", "open_source", "video_info"]

_MODULES = {
    "frame": ("Event", "Frame"),
    "sources": ("Source", "find_sources", "open_source"),
    "video": ("VideoInfo", "video_info"),
    "video_writer": ("VideoWriter",),
}

__getattr__ = lazy_exports(__name__, _MODULES)
