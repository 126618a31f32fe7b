"""The documented way in: one class for every model, image and threshold."""

from __future__ import annotations

import copy
import doctest
import io
import logging
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rtmo_deploy.runtime.estimator
from rtmo_deploy import RTMO, PoseEstimator
from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.data.images import read_image
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import InputDataError, SetupError, UsageError
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime.rows import greedy_nms

FIELDS = ("boxes", "scores", "keypoints", "keypoint_scores")


def same(one, two):
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in FIELDS)


def close(one, two):
    """The same but for rounding, of which made-up weights make up to 0.1 px where another number of rows is decoded."""
    pairs = [(getattr(one, name), getattr(two, name)) for name in FIELDS]
    return len(one) == len(two) and all(np.allclose(first, second, rtol=0, atol=0.2) for first, second in pairs)


@pytest.fixture(scope="module")
def models(checkpoint_n, onnx_n, tmp_path_factory):
    """The same network behind each way of decoding."""
    folder = tmp_path_factory.mktemp("models")
    loaded = load_checkpoint(str(checkpoint_n))
    for name, rows in (("fixed", 40), ("raw", None)):
        export_onnx(loaded, str(folder / f"{name}.onnx"), ExportOptions(decode=name, max_dets=rows), verify=False)
    paths = {"torch": checkpoint_n, "onnx": onnx_n, "fixed": folder / "fixed.onnx", "raw": folder / "raw.onnx"}
    return {name: RTMO(path, device="cpu", threads=1) for name, path in paths.items()}


def test_doctests():
    found = doctest.testmod(rtmo_deploy.runtime.estimator)
    assert found.attempted > 4
    assert not found.failed


def test_names_of_the_class():
    assert PoseEstimator is RTMO


class TestInputs:
    def test_one_is_poses_and_several_are_a_list(self, models, pictures):
        model, image = models["onnx"], read_image(pictures[1])
        one = model(image)
        assert one.image_hw == image.shape[:2] == (200, 320)
        pillow = Image.fromarray(image[..., ::-1])
        tensor = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
        mixed = [pictures[0], image, pillow, tensor, pictures[1].read_bytes(), str(pictures[1])]
        found = model(mixed, batch=1)
        assert all(same(poses, one) for poses in found[1:])
        assert same(found[0], model(pictures[0]))
        assert [same(poses, one) for poses in model(tuple(mixed[:2]), batch=1)] == [False, True]
        for several in (np.stack([image, image]), torch.stack([tensor, tensor])):
            assert [same(poses, one) for poses in model(several, batch=1)] == [True, True]
        assert same(model(image[..., ::-1], color="rgb"), one)
        assert model([]) == []

    @pytest.mark.parametrize("given", ["a.png", b"a", Path("a.png"), np.zeros((4, 4, 3), np.uint8)])
    def test_predict_takes_several(self, models, given):
        with pytest.raises(UsageError, match="Give a list"):
            models["onnx"].predict(given)

    def test_a_generator_is_read_as_it_is_needed(self, models, pictures):
        taken = []

        def images():
            for path in pictures[:3]:
                taken.append(path)
                yield path

        assert len(models["onnx"].predict(images(), batch=2)) == len(taken) == 3

    def test_poses_know_their_image(self, models, pictures):
        image = read_image(pictures[0])
        by_path, by_array = models["onnx"]([pictures[0], image])
        assert by_path.source is pictures[0]  # pixels of many files would fill the memory
        assert np.shares_memory(by_array.source, image)
        assert by_path[0].source is pictures[0]


class TestThresholds:
    @pytest.mark.parametrize("name", ["torch", "onnx", "fixed", "raw"])
    def test_stricter_than_the_model(self, models, pictures, name):
        model = models[name]
        whole = model(pictures[0])
        middle = float(np.median(whole.scores))
        above = model(pictures[0], score_thr=middle)
        assert 0 < len(above) < len(whole)
        assert close(above, whole[whole.scores > middle])
        assert same(model(pictures[0], max_people=2), whole[:2])
        seen = model(pictures[0], kpt_thr=0.6)
        expected = np.where(whole.keypoint_scores >= 0.6, whole.keypoint_scores, 0)
        assert np.array_equal(seen.keypoint_scores, expected)
        assert 0 < (expected == 0).sum() < expected.size
        assert np.array_equal(seen.keypoints, whole.keypoints)
        assert same(model(pictures[0]), whole)  # a call changes nothing for the next one

    @pytest.mark.parametrize("name", ["torch", "onnx", "fixed", "raw"])
    def test_a_stricter_suppression(self, models, pictures, name):
        model = models[name]
        found = [len(model(pictures[0], nms_thr=threshold)) for threshold in (0.65, 0.2, 0.0)]
        assert found[0] > found[2] > 0
        assert found == sorted(found, reverse=True)
        apart = model(pictures[0], nms_thr=0.05)
        assert len(greedy_nms(apart.boxes, apart.scores, 0.06)) == len(apart)

    @pytest.mark.parametrize("name", ["torch", "raw"])
    def test_looser_where_the_graph_has_not_decided(self, models, pictures, name):
        model = models[name]
        whole = model(pictures[0])
        more = model(pictures[0], score_thr=0.01, nms_thr=0.9)
        assert len(more) > len(whole)
        assert more.scores.min() < 0.1
        assert same(more[more.scores > 0.3][:1], whole[whole.scores > 0.3][:1])
        assert len(model(pictures[0], max_people=1000)) == len(whole)

    @pytest.mark.parametrize(
        ("name", "asked", "says"),
        [
            ("onnx", {"score_thr": 0.05}, r"score_thr 0\.05 is below 0\.1"),
            ("fixed", {"nms_thr": 0.7}, r"nms_thr 0\.7 is above 0\.65"),
            ("fixed", {"max_people": 41}, r"max_people 41 is above 40"),
        ],
    )
    def test_looser_where_it_has(self, models, pictures, name, asked, says):
        with pytest.raises(UsageError, match=f"{says}.*Use the checkpoint"):
            models[name](pictures[0], **asked)

    @pytest.mark.parametrize(
        "asked",
        [
            {"score_thr": -0.1},
            {"nms_thr": 1.1},
            {"kpt_thr": float("nan")},
            {"max_people": 0},
            {"score_thr": 50},
            {"max_people": 1.5},
            {"max_people": True},
            {"score_thr": "0.5"},
            {"nms_thr": True},
            {"kpt_thr": [0.5]},
        ],
    )
    def test_out_of_range(self, models, asked):
        with pytest.raises(UsageError, match="It must be"):
            models["torch"]([], **asked)

    def test_none_is_the_model_s_own(self, models, pictures):
        nothing = dict.fromkeys(("score_thr", "nms_thr", "kpt_thr", "max_people"))
        assert same(models["torch"](pictures[0], **nothing), models["torch"](pictures[0]))
        assert models["torch"].artifact.decode.mode is DecodeMode.RAW


@pytest.mark.parametrize("name", ["torch", "onnx", "raw", "openvino"])
def test_threads_share_a_model(models, onnx_n, pictures, name, request):
    if name == "openvino":
        pytest.importorskip("openvino")
        request.getfixturevalue("openvino_compiles")
        model = RTMO(onnx_n, device="cpu", backend="openvino", threads=1)
    else:
        model = models[name]
    alone = [model(path) for path in pictures]
    work = [number % len(pictures) for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: model(pictures[number], score_thr=0.1 + 0.02 * number), work))
    for number, poses in zip(work, found, strict=True):
        assert close(poses, alone[number][alone[number].scores > np.float32(0.1 + 0.02 * number)])


class TestLife:
    def test_it_closes(self, onnx_n, pictures):
        with RTMO(onnx_n, device="cpu") as model:
            assert len(model(pictures[0]))
        assert repr(model) == "RTMO('n.onnx', closed)"
        with pytest.raises(UsageError, match="closed"):
            model(pictures[0])
        with pytest.raises(UsageError, match="closed"):
            _ = model.backend
        model.close()

    def test_an_opened_backend_is_its_owner_s_to_close(self, models, pictures):
        again = RTMO(models["onnx"].backend, input_hw=(128, 128))
        again.close()
        assert len(models["onnx"](pictures[0]))

    def test_pickled_and_copied_it_opens_again(self, onnx_n, pictures):
        model = RTMO(str(onnx_n), device="cpu", input_hw=(160, 160), threads=1)
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert repr(other) == repr(model)
            assert same(other(pictures[0]), model(pictures[0]))
        with pytest.raises(TypeError, match="opened backend"):
            pickle.dumps(RTMO(model.backend))


class TestDevice:
    def test_the_choice_is_logged_once(self, onnx_n, caplog, pictures):
        with caplog.at_level(logging.INFO, "rtmo_deploy"):
            model = RTMO(onnx_n)
            model(pictures[0])
        (record,) = (record for record in caplog.records if record.name == "rtmo_deploy")
        assert record.getMessage().startswith(f"n.onnx: onnxruntime on {model.backend.device}, fp32.")
        assert f"backend='onnxruntime', device='{model.backend.device}', precision='fp32'" in repr(model)

    def test_a_gpu_is_taken_if_it_can_be_used(self, onnx_n, monkeypatch):
        asked = []
        real = rtmo_deploy.runtime.estimator.open_backend

        def spy(artifact, device, **how):
            asked.append(device)
            return real(artifact, "cpu", **how)

        monkeypatch.setattr(rtmo_deploy.runtime.estimator, "open_backend", spy)
        RTMO(onnx_n)
        RTMO(onnx_n, device="cuda:1")
        PoseEstimator.open(onnx_n)
        assert asked == ["cuda:0", "cuda:1", "cpu"]

    def test_a_gpu_that_is_asked_for_is_not_replaced(self, onnx_n, monkeypatch):
        def none(*_, **__):
            raise SetupError("No GPU.")

        monkeypatch.setattr(rtmo_deploy.runtime.estimator, "open_backend", none)
        with pytest.raises(SetupError, match="No GPU"):
            RTMO(onnx_n, device="cuda")


@pytest.mark.parametrize("given", [None, 5, {}, {"a": 1}, "a.jpg", b"", io.BytesIO(), Image.new("RGB", (2, 2))])
def test_what_is_not_several_images(models, given):
    with pytest.raises(UsageError, match="several images"):
        models["onnx"].predict(given)


@pytest.mark.parametrize("batch", [0, 2.0, True, "8"])
def test_a_batch_that_is_none(models, batch):
    with pytest.raises(UsageError, match="batch is"):
        models["onnx"].predict([], batch=batch)


@pytest.mark.parametrize("given", [None, 5, b"a.onnx"])
def test_what_is_no_model(given):
    with pytest.raises(UsageError, match="is not a model"):
        RTMO(given)


def test_a_model_or_a_checkpoint_is_no_backend(models, checkpoint_n):
    for given in (models["onnx"], load_checkpoint(checkpoint_n)):
        with pytest.raises(UsageError, match="is not a model"):
            RTMO(given)


def test_letterboxed_images(models, pictures):
    model = models["onnx"]
    for given in ([], [read_image(pictures[0])]):
        with pytest.raises(UsageError, match="place"):
            model.detect(given)


def test_a_precision_that_there_is_not(onnx_n):
    with pytest.raises(UsageError, match="no precision 'FP32'"):
        RTMO(onnx_n, device="cpu", precision="FP32")


@pytest.mark.parametrize("how", [{"threads": 0}, {"threads": "2"}, {"device": 0}, {"device": None}])
def test_options_of_other_types(onnx_n, how):
    with pytest.raises(UsageError):
        RTMO(onnx_n, **how)


def test_what_is_to_be_known_of_a_model_is_said_once(caplog):
    RTMO("rtmo-n", device="cpu")
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "rtmo_deploy.model_notes"
    ]


def test_sizes_of_other_types(onnx_n):
    assert RTMO(onnx_n, input_hw=[64, 96]).input_hw == (64, 96)
    assert RTMO(onnx_n, input_hw=np.array([64, 96])).input_hw == (64, 96)
    for size in (64, (64,), "64", (64.0, 64), ("64", 64), (True, 64)):
        with pytest.raises(UsageError, match="input_hw is"):
            RTMO(onnx_n, input_hw=size)


class TestSources:
    def test_stream(self, models, pictures):
        folder = pictures[0].parent
        frames = list(models["onnx"].stream(str(folder), score_thr=0.3, batch=2))
        assert [frame.source for frame in frames] == [str(path) for path in sorted(pictures)]
        for frame in frames:
            assert np.array_equal(frame.image, read_image(frame.source))
            assert np.allclose(frame.poses.scores, models["onnx"](frame.source, score_thr=0.3).scores, atol=1e-5)
            assert frame.poses.plot(frame.image).shape == frame.image.shape

    def test_a_missing_source(self, models, pictures):
        with pytest.raises(InputDataError, match="missing"):
            models["onnx"].stream("missing.png")
        events = []
        frames = models["onnx"].stream(["missing.png", pictures[0]], on_event=events.append)
        assert len(list(frames)) == 1
        assert [event.kind for event in events] == ["failed"]

    @pytest.mark.parametrize("how", [{"batch": 0}, {"stride": 1.5}, {"policy": "latest"}, {"score_thr": 2}])
    @pytest.mark.parametrize("name", ["stream", "track"])
    def test_what_cannot_be_asked_for_is_refused_at_once(self, models, pictures, name, how):
        with pytest.raises(UsageError, match=next(iter(how))):
            getattr(models["onnx"], name)(pictures[0], **how)

    def test_a_failure_names_its_source_once(self, models, pictures, tmp_path, caplog):
        (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(99))
        assert len(list(models["onnx"].stream([tmp_path / "a.jpg", pictures[0]]))) == 1
        assert caplog.text.count("a.jpg") == 1

    def test_an_iterator_that_is_left_has_no_threads_at_exit(self, onnx_n, pictures, tmp_path):
        for number in range(40):  # they would abort Python, now and then
            shutil.copy(pictures[0], tmp_path / f"{number}.png")
        code = (
            "import atexit, sys, threading, rtmo_deploy; atexit.register(lambda: print(threading.active_count()))\n"
            "frames = rtmo_deploy.RTMO(sys.argv[1], threads=1).stream(sys.argv[2]); print(next(frames).index)"
        )
        command = [sys.executable, "-c", code, str(onnx_n), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, "0\n1\n"), done.stderr

    def test_track(self, tmp_path):
        av = pytest.importorskip("av")
        model = RTMO("rtmo-n", device="cpu")
        options = SyntheticOptions(size=(256, 384), people=(2, 2))
        image = SyntheticPeople(1, seed=5, options=options)[0].image
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            video = container.add_stream("mpeg4", rate=5, width=384, height=256)
            for _ in range(8):
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
            container.mux(video.encode())
        whole, above = (list(model.track(tmp_path / "v.mp4", score_thr=thr)) for thr in (None, 0.4))
        assert [frame.index for frame in whole] == list(range(8))
        for frame, few in zip(whole, above, strict=True):
            assert frame.poses.track_ids.shape == (len(frame.poses),)
            kept = frame.poses.scores > 0.4
            assert np.array_equal(few.poses.track_ids, frame.poses.track_ids[kept])
        weak, best = (list(model.track(tmp_path / "v.mp4", **how)) for how in ({"score_thr": 0.01}, {"max_people": 1}))
        assert max(len(frame.poses) for frame in weak) > max(len(frame.poses) for frame in whole)
        for frame, one in zip(whole, best, strict=True):
            assert np.array_equal(one.poses.track_ids, frame.poses.track_ids[:1])
        last, before = (set(frame.poses.track_ids.tolist()) - {-1} for frame in (whole[-1], whole[-2]))
        assert last
        assert last == before  # nothing moves
