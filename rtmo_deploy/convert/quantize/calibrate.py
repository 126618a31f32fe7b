"""A model and a set of pictures become a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.convert.quantize.collect import local_errors, measure_histograms, thresholds_of
from rtmo_deploy.convert.quantize.feed import Feed
from rtmo_deploy.convert.quantize.ranges import PERCENTILE, Method
from rtmo_deploy.convert.quantize.record import Calibration, Source
from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.convert.quantize.source_model import SourceModel
    from rtmo_deploy.data.calibration import CalibrationPictures

DEFAULT_METHOD = Method.MSE


def calibrate(
    source: SourceModel,
    pictures: CalibrationPictures,
    *,
    method: Method = DEFAULT_METHOD,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure a model on pictures: two rounds, one picture at a time.

    Args:
        source: The float32 model.
        pictures: The set.
        method: How ranges are chosen.
        threads: Threads an operator may use.
        progress: Told of each step.

    Raises:
        InputDataError: None of the pictures can be used.
        ArtifactError: The model does not run on them, or puts out something that is not finite.
    """
    about = _source(source, pictures, method)
    artifact = source.artifact

    def rounds(what: str) -> Feed:
        return Feed(pictures, artifact.input, lambda done, total: progress(Count(what, done, total)))

    feed = rounds("measuring ranges")
    histograms = measure_histograms(source.model, source.placement, feed, where=source.path, threads=threads)
    thresholds = thresholds_of(histograms, source.placement, method, percentile=PERCENTILE)
    again = rounds("measuring what 8 bits do to each layer")
    shifts, noise = local_errors(source.model, source.placement, thresholds, again, where=source.path, threads=threads)
    return Calibration(about, feed.used, tuple(feed.skipped), thresholds, shifts, noise)


def calibrate_cached(
    source: SourceModel,
    pictures: CalibrationPictures,
    folder: Path,
    *,
    method: Method = DEFAULT_METHOD,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Calibration, bool]:
    """The same, kept in a folder for the next time.

    A file there is used only if it is sound and says that it was measured on this very model, these pictures, this
    way; any other is measured anew and replaced.

    Returns:
        The calibration, and whether it was there.
    """
    about = _source(source, pictures, method)
    path = folder / f"{about.key()}.json"
    if path.is_file():
        try:
            known = Calibration.load(path)
        except RtmoDeployError:
            pass  # damaged: measured anew, and replaced
        else:
            if known.source.key() == about.key() and known.thresholds.keys() >= source.placement.edges.keys():
                return known, True
    made = calibrate(source, pictures, method=method, threads=threads, progress=progress)
    made.save(path)
    return made, False


def _source(source: SourceModel, pictures: CalibrationPictures, method: Method) -> Source:
    contract = source.artifact.input
    return Source(
        model_sha256=source.sha256,
        pictures=pictures.identity(),
        input_hw=(contract.height, contract.width),
        placement=contract.placement,
        method=method,
        percentile=PERCENTILE if method is Method.PERCENTILE else 0.0,
    )
