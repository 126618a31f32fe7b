"""Models that were broken on purpose, each as it happens in practice: parity and AP see it, and say what it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rtmo_deploy.data.coco import CocoKeypoints
from rtmo_deploy.data.coco_writer import write_dataset
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.measure.accuracy import evaluate_model
from rtmo_deploy.measure.agreement import ImageSource, Side, compare_models, explain_evaluation
from rtmo_deploy.runtime import estimator as estimator_module
from rtmo_deploy.runtime.estimator import PoseEstimator, locate_model
from rtmo_deploy.runtime.letterbox import LetterboxTransform

STEM = "/backbone/stem/conv/Conv"
DEEP = "/backbone/stage3/stage3.0/conv/Conv"
PICTURES = 16
INPUT = (256, 256)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The sample model, exported: it finds synthetic people."""
    from rtmo_deploy.convert import export_onnx
    from rtmo_deploy.model import load_checkpoint

    path = tmp_path_factory.mktemp("sample") / "n.onnx"
    export_onnx(load_checkpoint(locate_model("rtmo-n")), path, verify=False)
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    people = SyntheticPeople(PICTURES, seed=4000, options=SyntheticOptions(size=(240, 320), people=(2, 5)))
    written = write_dataset(folder, people, suffix=".png")
    return CocoKeypoints(written.path, folder / "images")


@pytest.fixture(scope="module")
def reference(sample):
    return Side.open(sample, threads=1)


@pytest.fixture
def broken(sample, tmp_path):
    """A copy of the model after ``change`` has had it."""

    def make(change):
        model = onnx.load(sample)
        change(model)
        path = tmp_path / "broken.onnx"
        onnx.save(model, path)
        return path

    return make


def weights(name, change):
    """A change of one convolution's weights."""

    def edit(model):
        node = next(node for node in model.graph.node if node.name == name)
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
        value = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return edit


def corrupted(weight):
    """A bit of the exponent of some weights, as in a damaged file."""
    flat = weight.reshape(-1)
    flat[:4] = 60 * np.abs(flat).max()
    return weight


def swapped(model):
    """Left and right wrist change places in the output."""
    order = list(range(17))
    order[9], order[10] = 10, 9
    for node in model.graph.node:
        node.output[:] = ["unordered" if name == "keypoints" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(order, np.int64), "order"))
    model.graph.node.append(helper.make_node("Gather", ["unordered", "order"], ["keypoints"], axis=2))


def padded(model):
    """The image stands 16 pixels further down, as in another letterbox, and nobody takes them away again."""
    for node in model.graph.node:
        node.input[:] = ["lower" if name == "input" else name for name in node.input]
    pads = numpy_helper.from_array(np.array([0, 0, 16, 0, 0, 0, -16, 0], np.int64), "pads")
    grey = numpy_helper.from_array(np.array(114, np.float32), "grey")
    model.graph.initializer.extend([pads, grey])
    model.graph.node.insert(0, helper.make_node("Pad", ["input", "pads", "grey"], ["lower"]))


def flipped(weight):
    return weight[:, ::-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weights(DEEP, corrupted), f"The first layer below the bound is {DEEP}"),
        (
            swapped,
            "were swapped: the first model's left_wrist is nearest to where the second has right_wrist",
        ),
        (weights(STEM, flipped), "when it is given its channels reversed (RGB)"),
        (padded, "The second model's keypoints fit the first's shifted by "),
    ],
    ids=["a corrupted weight", "a swapped pair", "RGB for BGR", "another letterbox"],
)
def test_parity_says_what_it_was(reference, broken, drawn, change, words):
    pictures = ImageSource(tuple(drawn.name(n) for n in range(6)), "drawn", True, drawn.image)
    other = Side.open(broken(change), threads=1)
    report = compare_models(reference, other, pictures, input_hw=INPUT, layers="if unexplained")
    assert report.verdict == "differ"
    assert report.causes, report.failures()
    assert words in report.causes[0], report.causes


def test_parity_has_nothing_to_say_of_the_same(reference, drawn):
    pictures = ImageSource(tuple(drawn.name(n) for n in range(3)), "drawn", True, drawn.image)
    report = compare_models(reference, reference, pictures, input_hw=INPUT, layers="if unexplained")
    assert (report.verdict, report.causes, report.layers) == ("agree", (), None)
    assert report.people.matched > 3


def judged(model, drawn):
    """AP in points, and what would explain a low one."""
    estimator = PoseEstimator.open(model, input_hw=INPUT, threads=1)
    found = evaluate_model(estimator, drawn, batch=4)
    return 100 * found.report.metrics["AP"], explain_evaluation(estimator, drawn, found.detections)


@pytest.fixture(scope="module")
def right(sample, drawn):
    ap, causes = judged(sample, drawn)
    assert causes == []
    return ap


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swapped, "the annotated left_wrist is nearest to where the model has right_wrist"),
        (weights(STEM, flipped), "People fit the annotations better with red and blue exchanged"),
        (weights(DEEP, corrupted), None),  # judging cannot tell; parity names the layer
    ],
    ids=["a swapped pair", "RGB for BGR", "a corrupted weight"],
)
def test_the_judge_says_what_it_was(broken, drawn, right, change, words):
    ap, causes = judged(broken(change), drawn)
    assert ap < right - 2
    assert (words is None and not causes) or words in causes[0], causes


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda self, points: points / self.scale, "the letterbox's padding was not taken away"),
        (lambda self, points: points - self.offset, "the letterbox's scale was not undone"),
        (lambda _, points: points, "the letterbox was not undone"),
    ],
    ids=["padding", "scale", "neither"],
)
def test_a_letterbox_that_is_not_undone(sample, drawn, right, monkeypatch, mistake, words):
    """The mistake of a client, which parity cannot see: both models get the same input."""
    transform = type("Wrong", (LetterboxTransform,), {"to_original": mistake})

    def wrong(*arguments):
        canvas, made = letterbox(*arguments)
        return canvas, transform(made.scale, made.offset, made.original_hw, made.input_hw)

    letterbox = estimator_module.letterbox
    monkeypatch.setattr(estimator_module, "letterbox", wrong)
    ap, causes = judged(sample, drawn)
    assert ap < right - 10
    assert words in causes[0], causes
