"""Images of both models side by side, and the page that lists them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.agreement import (
    BOUNDS,
    AgreementReport,
    ImageSource,
    LayerError,
    LayerReport,
    ModelSummary,
    write_gallery,
)
from rtmo_deploy.measure.agreement.gallery import difference_panel, magnification
from rtmo_deploy.measure.comparison import compare_image, summarise
from rtmo_deploy.measure.tensors import TensorError
from rtmo_deploy.poses import Poses
from rtmo_deploy.release.make import _draw
from rtmo_deploy.zoo import COCO_17

HW = (96, 128)


def somebody(count=1, step=0.0, drop=0):
    rng = np.random.default_rng(0)
    corner = np.array([[20.0, 20.0], [70.0, 30.0]])[:count]
    boxes = np.concatenate([corner, corner + 40], axis=1)
    keypoints = corner[:, None] + rng.uniform(2, 38, (count, 17, 2)) + step
    poses = Poses(boxes, np.array([0.9, 0.8])[:count], keypoints, np.ones((count, 17)), COCO_17)
    return poses[: count - drop]


def report_of(pairs, **kwargs):
    names = [f"<{index}>&.png" for index in range(len(pairs))]
    results = tuple(compare_image(name, *pair, COCO_17.sigmas, 0.1) for name, pair in zip(names, pairs, strict=True))
    model = ModelSummary("<a>.onnx", "onnx", "fp32", "fixed", "center", "rtmo-deploy", "toy", "cpu", "0" * 64)
    report = AgreementReport(
        a=model,
        b=replace(model, path="b&.onnx"),
        input_hw=HW,
        source="toys",
        people=summarise(results),
        images=results,
        tensors={},
        bounds=BOUNDS["fp32"],
        found=tuple(pairs),
        **kwargs,
    )
    images = [np.full((60, 90, 3), 40 * index, np.uint8) for index in range(len(pairs))]
    return report, ImageSource(tuple(names), "toys", True, lambda index: images[index])


class Page(HTMLParser):
    """What a page asks for and says."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_folder(tmp_path):
    pairs = [(somebody(2), somebody(2)), (somebody(2), somebody(2, 1.5)), (somebody(2), somebody(2, 0.5, drop=1))]
    report, pictures = report_of(pairs)
    path = write_gallery(report, pictures, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "index.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["001.png", "002.png", "003.png", "index.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    # Worst first: somebody missed, then the larger error.
    assert re.findall(r"<h3>&lt;(\d)&gt;&amp;\.png</h3>", text) == ["2", "1", "0"]
    assert page.text.index("They differ: a bound is not met.") < page.text.index("Figures")
    assert "3 people missed" not in page.text
    assert "1 people missed and 0 extra on <2>&.png" in page.text
    drawn = cv2.imread(str(path.parent / "001.png"))
    assert drawn.shape == (5 * 96, 3 * 5 * 128 + 16, 3)


def test_the_page_needs_no_network_and_no_script(tmp_path):
    report, pictures = report_of([(somebody(), somebody(1, 1))], notes=("a <b>note</b>",), causes=("a & cause",))
    path = write_gallery(report, pictures, tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(link.startswith("data:image/jpeg;base64,") or link == "001.png" for link in page.links)
    assert len(page.links) == 4
    assert "script" not in page.tags
    assert "://" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "a <b>note</b>" in page.text
    assert "a & cause" in page.text
    assert "<b>note" not in text


def test_layers_are_listed_with_the_first_one_marked(tmp_path):
    error = TensorError(100.0, 1.0, 0.5, 3.0)
    layers = LayerReport(
        (LayerError("/<x>/Conv", "Conv", True, TensorError(1.0)), LayerError("/y/Mul", "Mul", False, error)),
        75.0,
        "p",
        "tensor names",
    )
    report, pictures = report_of([(somebody(), somebody())], layers=layers)
    text = write_gallery(report, pictures, tmp_path).read_text(encoding="utf-8")
    assert "The first layer below the bound is /y/Mul" in Page(text).text
    assert re.search(r'<tr class="failed"><td><code>/y/Mul</code>', text)


def test_only_the_worst_are_drawn(tmp_path):
    pairs = [(somebody(), somebody(1, 0.1 * index)) for index in range(5)]
    report, pictures = report_of(pairs)
    path = write_gallery(report, pictures, tmp_path, most=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["001.png", "002.png", "index.html"]
    text = path.read_text(encoding="utf-8")
    assert "the worst 2 of 5" in text
    assert re.findall(r"<h3>&lt;(\d)", text) == ["4", "3"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "x").write_text("mine")
    report, pictures = report_of([(somebody(), somebody())])
    with pytest.raises(UsageError):
        write_gallery(report, pictures, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_nobody_is_drawn_too(tmp_path):
    none = Poses.empty(COCO_17)
    report, pictures = report_of([(none, none)])
    assert "Neither model found anybody" in write_gallery(report, pictures, tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "times"), [(0.0, 1), (9.6, 1), (4.8, 2), (4.0, 2), (0.96, 10), (0.001, 5000), (1e-9, 1_000_000)]
)
def test_errors_are_magnified_to_a_tenth_of_the_picture(error, times):
    one = somebody()
    two = Poses(one.boxes, one.scores, one.keypoints + np.array([error, 0]), one.keypoint_scores, COCO_17)
    picture = compare_image("x", one, two, COCO_17.sigmas, 0.1)
    picture = replace(picture, keypoint_px=np.full_like(picture.keypoint_px, error))
    assert magnification([picture], HW) == times


def test_an_arrow_is_as_long_as_it_should_be():
    """One keypoint is off by 1 px to the right; drawn ten times as large it ends 10 px from where it starts."""
    keypoints = np.full((1, 17, 2), 30.0)
    one = Poses(np.array([[10.0, 10, 90, 90]]), np.ones(1), keypoints, np.ones((1, 17)), COCO_17)
    other = keypoints.copy()
    other[0, 0, 0] += 1
    two = Poses(one.boxes, one.scores, other, one.keypoint_scores, COCO_17)
    picture = compare_image("x", one, two, COCO_17.sigmas, 0.1)
    canvas = np.full((96, 128, 3), 128, np.uint8)
    panel = difference_panel(canvas, (one, two), picture, 10).astype(int)
    orange = (panel[..., 2] - panel[..., 0] > 120)[:70]
    rows, columns = np.nonzero(orange)
    assert abs(columns.max() - 40) <= 1
    assert columns.min() >= 28
    assert abs(rows.mean() - 30) < 1
    nothing = difference_panel(canvas, (one, one), compare_image("x", one, one, COCO_17.sigmas, 0.1), 10).astype(int)
    assert not (nothing[:70, :, 2] - nothing[:70, :, 0] > 120).any()


def test_what_is_not_a_number_is_left_out():
    one = somebody(2)
    keypoints = one.keypoints.copy()
    keypoints[0] = np.nan
    boxes = one.boxes.copy()
    boxes[1] = np.inf
    two = Poses(boxes, one.scores, keypoints, one.keypoint_scores, COCO_17)
    picture = compare_image("x", one, two, COCO_17.sigmas, 0.1)
    canvas = np.full((96, 128, 3), 128, np.uint8)
    assert difference_panel(canvas, (one, two), picture, magnification([picture], HW)).shape == canvas.shape


def test_a_release_shows_images_on_which_somebody_is_drawn(tmp_path):
    """The worst image may be one of people below the drawing threshold, whom nobody would see."""
    faint = replace(somebody(), scores=np.array([0.3], np.float32))
    report, pictures = report_of([(faint, faint[:0]), (somebody(), somebody(1, 0.5))])
    assert report.worst()[0] == 0
    job = SimpleNamespace(folder=tmp_path, progress=lambda _: None)
    assert [shown["name"] for shown in _draw(report, pictures, job, 2)] == ["<1>&.png"]
    report, pictures = report_of([(faint, faint[:0])])
    assert [shown["name"] for shown in _draw(report, pictures, job, 2)] == ["<0>&.png"]
    assert _draw(report, pictures, job, 0) == []
