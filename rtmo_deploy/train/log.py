"""The log of a run: ``log.csv``, an image of the curves, and TensorBoard events if asked for."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import MissingDependencyError, ModelError, SetupError
from rtmo_deploy.files import UnreadableError, atomic_write, read_bounded
from rtmo_deploy.train.sections import TERMS

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.measure.accuracy import AccuracyReport

FIGURES = ("AP", "AP50", "AP75", "AR")
COLUMNS = ("step", "epoch", "lr", "pictures_per_second", "loss", *TERMS, "heatmap", *FIGURES)
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Progress:
    """Where a run is: terms are means over the last steps, images per second those of all processes since the start."""

    step: int
    steps: int
    epoch: int
    terms: dict[str, float]
    images_per_second: float
    report: AccuracyReport | None = None


class Log:
    """Rows of ``log.csv``, and TensorBoard events in ``tensorboard`` beside it if asked for.

    A run that goes on from ``step`` first drops the rows after it.
    """

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        kept = [row for row in read_log(self.path) if int(row["step"]) <= step] if step else []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(kept)
            self._stream = self.path.open("a", newline="", encoding="utf-8")
            self._writer: Any = None
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        except OSError as error:
            raise SetupError(
                f"The log cannot be written: {error.strerror}.", remedy="Choose another folder.", where=self.path
            ) from error
        self._rows = csv.DictWriter(self._stream, COLUMNS)

    def write(self, progress: Progress, rate: float) -> None:
        """Add a row, with the learning rate; after a validation, draw the curves anew."""
        step, report = progress.step, progress.report
        row: dict[str, Any] = {"step": step, "epoch": progress.epoch, "lr": f"{rate:.6g}"}
        row["pictures_per_second"] = f"{progress.images_per_second:.2f}"
        row["loss"] = f"{sum(progress.terms.values()):.6g}"
        row |= {name: f"{value:.6g}" for name, value in progress.terms.items()}
        figures = {name: report.metrics.get(name) for name in FIGURES} if report else {}
        row |= {name: f"{value:.4f}" for name, value in figures.items() if value is not None}
        self._rows.writerow(row)
        self._stream.flush()
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    self._writer.add_scalar(name, float(value), step)
        if report is not None:
            self.draw()

    def draw(self) -> None:
        draw_curves(self.path, self.path.with_name("curves.png"))

    def close(self) -> None:
        self._stream.close()
        if self._writer is not None:
            self._writer.close()


def check_packages(*, tensorboard: bool) -> None:
    """Refuse, before the first step, to train without Matplotlib, or without TensorBoard where it is asked for."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError("matplotlib", purpose="Drawing the curves", extra="train") from error
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingDependencyError("tensorboard", purpose="Writing TensorBoard events", extra="train")


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a ``log.csv``, none where there is no file; a row that was cut off is left out."""
    try:
        text = read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8").rpartition("\n")[0]
        lines = csv.reader(text.splitlines())
        names = next(lines, [])
        if text and ("step" not in names or len(set(names)) < len(names) or not set(COLUMNS).issuperset(names)):
            raise UnreadableError("its header is missing or another")
        rows = [dict(zip(names, values, strict=True)) for values in lines if len(values) >= len(names)]
        for row in rows:
            if not row["step"].isdecimal() or not all(math.isfinite(float(value or 0)) for value in row.values()):
                raise UnreadableError("a row has something else than numbers")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        why = str(error) if isinstance(error, UnreadableError) else "it is not the table that a training writes"
        raise ModelError(
            f"The log of this run cannot be continued: {why}.",
            remedy="Move it away; the run then goes on without its earlier rows.",
            where=path,
        ) from error
    return rows


def draw_curves(log: Path, image: Path) -> None:
    """Losses and, where it was judged, AP over steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(log)
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [int(row["step"]) for row in rows]
    for axes, names, style in ((below, TERMS, {"linewidth": 1}), (above, FIGURES, {"marker": ".", "linewidth": 1.5})):
        for name in names:
            points = [(step, float(row[name])) for step, row in zip(steps, rows, strict=True) if row.get(name)]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, **style)
    above.set(ylabel="validation", ylim=(0, 1), title="averaged weights on the validation set")
    below.set(ylabel="weighted loss terms", xlabel="step", yscale="symlog")
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    FigureCanvasAgg(figure)
    with atomic_write(image) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
