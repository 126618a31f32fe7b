"""Checkpoints as other trainers save them, and ones with tensors of a wrong type: taken, or refused by a sentence."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model import NetworkSpec, load_checkpoint
from rtmo_deploy.model.checkpoint import pack_checkpoint
from rtmo_deploy.model.reader import read_checkpoint
from rtmo_deploy.model.rtmo import RTMO, initialise

State = dict[str, torch.Tensor]
STEM = "backbone.stem.conv.conv.weight"
COUNTER = "backbone.stem.conv.bn.num_batches_tracked"


@pytest.fixture(scope="module")
def model() -> RTMO:
    """The smallest network, of five keypoints that nobody has named."""
    made = RTMO(NetworkSpec(0.1, 0.0625, 5, 32))
    initialise(made, 3)
    return made.eval()


@pytest.fixture
def state(model: RTMO) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def is_loaded(path: Path, state: State, **options: bool) -> bool:
    loaded = load_checkpoint(path, **options).model.state_dict()
    return list(loaded) == list(state) and all(torch.equal(loaded[key], state[key]) for key in state)


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **options)
    assert caught.value.exit_code == 4
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- where the state dict is, and what stands before its names


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "a.b."],
)
def test_a_prefix_that_all_tensors_share(tmp_path: Path, state: State, prefix: str) -> None:
    renamed = {prefix + key: value for key, value in state.items()}
    assert is_loaded(saved(tmp_path / "x.pth", {"state_dict": renamed}), state)
    save_file(renamed, tmp_path / "x.safetensors")
    found = load_checkpoint(tmp_path / "x.safetensors").contents.tensors
    assert set(found) == set(state)


def test_compiled_parts_of_a_network(tmp_path: Path, state: State) -> None:
    renamed = {key.replace("backbone.", "backbone._orig_mod."): value for key, value in state.items()}
    assert is_loaded(saved(tmp_path / "x.pth", renamed), state)


@pytest.mark.parametrize(
    "place",
    [
        "state_dict", "model", "ema", "model_state_dict", "ema_state_dict", "ema.module", "model.state_dict", "net",
        "ema.ema_state_dict", "weights", "params",
    ],
)  # fmt: skip
def test_a_state_dict_under_another_name(tmp_path: Path, state: State, place: str) -> None:
    content: Any = state
    for name in reversed(place.split(".")):
        content = {name: content, "epoch": 3}
    path = saved(tmp_path / "x.pth", content)
    assert is_loaded(path, state)
    assert read_checkpoint(path).source == place


def test_the_usual_weights_come_before_averaged_ones(tmp_path: Path, state: State) -> None:
    averaged = {key: value * 2 if value.is_floating_point() else value for key, value in state.items()}
    path = saved(tmp_path / "x.pth", {"ema": {"module": averaged, "updates": 7}, "model": state, "epoch": 3})
    assert is_loaded(path, state)
    assert is_loaded(path, averaged, ema=True)
    assert read_checkpoint(path).has_ema


def test_an_averaged_model_of_torch(tmp_path: Path, model: RTMO, state: State) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert is_loaded(saved(tmp_path / "x.pth", averaged.state_dict()), state)


def test_two_sets_of_weights(tmp_path: Path, state: State) -> None:
    text = refusal(saved(tmp_path / "x.pth", {"model": state, "model_state_dict": state}))
    assert "several sets of weights: 'model_state_dict', 'model'" in text
    text = refusal(saved(tmp_path / "x.pth", {"ema": state, "ema_state_dict": state}))
    assert "several sets of weights: 'ema_state_dict', 'ema'" in text


@pytest.mark.parametrize(
    ("other", "words"), [("teacher." + STEM, "also under 'teacher.'"), ("loss.weight", "beside 'loss.weight'")]
)
def test_tensors_beside_the_model(tmp_path: Path, state: State, other: str, words: str) -> None:
    renamed = {f"model.{key}": value for key, value in state.items()} | {other: torch.ones(3)}
    text = refusal(saved(tmp_path / "x.pth", {"state_dict": renamed}))
    assert f"under the prefix 'model.', {words}" in text


# -- whole models


class Wrapped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", [None, "model", "state_dict", "ema"])
@pytest.mark.parametrize("own", [True, False])
def test_a_whole_model(tmp_path: Path, model: RTMO, own: bool, place: str | None, legacy: bool) -> None:
    whole = model if own else Wrapped(model)
    path = tmp_path / "x.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of a class is not to be had
        torch.save({place: whole} if place else whole, path, _use_new_zipfile_serialization=not legacy)
    text = refusal(path)
    assert "whole model" in text or "not a state dict" in text
    assert "torch.save({'state_dict': model.state_dict()}, ...)" in text


# -- tensors that only training uses


TRAINING_ONLY = ["head.loss_oks.sigmas", "head.head_module.out_kpt_reg.", "num_batches_tracked", "head.dcc.sigma_fc."]


@pytest.mark.parametrize("absent", [*TRAINING_ONLY, "all"])
def test_a_file_without_training_only_tensors(
    tmp_path: Path, model: RTMO, state: State, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = {
        key: value
        for key, value in state.items()
        if not any(part in key for part in (TRAINING_ONLY if absent == "all" else [absent]))
    }
    loaded = load_checkpoint(saved(tmp_path / "x.pth", left))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    ours, theirs = loaded.model(images), model(images)
    for name in ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert torch.equal(one, other)
    assert loaded.skeleton.name == load_checkpoint(saved(tmp_path / "y.pth", state)).skeleton.name
    assert set(loaded.absent) == {key for key in state if key not in left and "num_batches" not in key}
    assert ("only training uses are absent" in caplog.text) == (absent != "num_batches_tracked")
    pack_checkpoint(loaded, tmp_path / "packed.pth")
    assert load_checkpoint(tmp_path / "packed.pth").absent == loaded.absent
    assert all(torch.isfinite(value).all() for value in loaded.model.state_dict().values())


def test_sigmas_that_are_absent_are_those_of_the_keypoints_names(tmp_path: Path, state: State) -> None:
    del state["head.loss_oks.sigmas"]
    names = {number: f"point {number}" for number in range(5)}
    dataset = {"dataset_name": "five", "keypoint_id2name": names, "sigmas": [0.01, 0.02, 0.03, 0.04, 0.05]}
    loaded = load_checkpoint(saved(tmp_path / "x.pth", {"state_dict": state, "meta": {"dataset_meta": dataset}}))
    assert loaded.model.head.loss_oks.sigmas.tolist() == pytest.approx(dataset["sigmas"])
    assert loaded.skeleton.sigmas == pytest.approx(dataset["sigmas"])


# -- tensors of other types


TYPES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    **{
        str(dtype).removeprefix("torch."): (
            lambda tensor, dtype=dtype: tensor.to(dtype),
            rf"tensor 'backbone.stem.conv.conv.weight' is of type {str(dtype).removeprefix('torch.')}; a floating",
        )
        for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint16)
    },
    "a type": (lambda _: torch.qint8, "not a named tensor"),  # as torch.ao's layers leave in a state dict
    "quantized": (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "a quantized tensor"),
    "quantized by channel": (
        lambda tensor: torch.quantize_per_channel(tensor, torch.ones(4), torch.zeros(4), 0, torch.quint8),
        "a quantized tensor",
    ),
    "sparse": (lambda tensor: tensor.to_sparse(), "a sparse tensor"),
    "CSR": (lambda tensor: tensor.flatten(1).to_sparse_csr(), "a sparse tensor"),
    "meta": (lambda tensor: tensor.to("meta"), "a meta tensor"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TYPES)
def test_a_tensor_of_another_type_is_named(tmp_path: Path, state: State, kind: str) -> None:
    convert, words = TYPES[kind]
    state[STEM] = convert(state[STEM])
    text = refusal(saved(tmp_path / "x.pth", {"state_dict": state}))
    assert STEM in text
    assert words in text


def test_a_bare_state_dict_with_another_entry(tmp_path: Path, state: State) -> None:
    text = refusal(saved(tmp_path / "x.pth", state | {"head.scale": (torch.ones(1), 3)}))
    assert "The entry 'head.scale' of its root is not a named tensor but a tuple" in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.uint8])
def test_safetensors_with_a_tensor_of_another_type(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    state[STEM] = state[STEM].to(dtype)
    save_file(state, tmp_path / "x.safetensors")
    assert f"{STEM!r} is of type {str(dtype).removeprefix('torch.')}" in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float16, torch.float64])
def test_a_counter_may_be_of_any_number(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    path = saved(tmp_path / "x.pth", state | {COUNTER: state[COUNTER].to(dtype)})
    assert is_loaded(path, state)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_a_counter_is_a_number(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    assert COUNTER in refusal(saved(tmp_path / "x.pth", state | {COUNTER: state[COUNTER].to(dtype)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_floating_point_types_become_float32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    loaded = load_checkpoint(saved(tmp_path / "x.pth", stored)).model.state_dict()
    assert torch.equal(loaded[STEM], stored[STEM].float())


# -- memory, and headers of safetensors


def tensor_file(path: Path, tensors: State) -> Path:
    content = io.BytesIO()
    torch.save({"state_dict": tensors}, content)
    path.write_bytes(content.getvalue())
    return path


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.float32, torch.int64])
def test_tensors_are_counted_as_they_are_in_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.zeros(100_000, dtype=torch.float32).to(dtype)
    size = max(dtype.itemsize, 4) if dtype.is_floating_point else dtype.itemsize
    fits = 4 * dtype.itemsize // size
    path = tensor_file(tmp_path / "x.pth", {"w": base.expand(fits, -1)})
    assert read_checkpoint(path).tensors["w"].shape == (fits, 100_000)
    path = tensor_file(tmp_path / "x.pth", {"w": base.expand(fits + 1, -1)})
    with pytest.raises(CheckpointError, match="many times more values"):
        read_checkpoint(path)


def test_more_tensors_than_any_network_has(tmp_path: Path) -> None:
    one = torch.zeros(0)
    path = tensor_file(tmp_path / "x.pth", {str(number): one for number in range(20_001)})
    with pytest.raises(CheckpointError, match="20,001 tensors"):
        read_checkpoint(path)


ENTRY = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (f'{{"w": {ENTRY}, "w": {ENTRY}}}', "an entry is there twice"),
        ('{"w": ' + "[" * 31 + "]" * 31 + "}", "damaged"),
        ('{"w": ' + "[" * 5000 + "]" * 5000 + "}", "nested deeper"),
        ('{"w": ' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ('[["w"]]', "not in a|in no format|not a dictionary"),
        ('{"w": 1}', "damaged"),
        ('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}', "too large"),
        ('{"w": {"dtype": "F32", "shape": [9223372036854775807, 4], "data_offsets": [0, 8]}}', "damaged"),
        ('{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}', "damaged"),
        (f'{{"v": {ENTRY}, "w": {ENTRY}}}', "damaged"),
        (f'{{"w": {ENTRY}, "__metadata__": {{"a": 1}}}}', "metadata is not a dictionary of text"),
        (f'{{"w": {ENTRY}, "__metadata__": [1]}}', "metadata is not a dictionary of text"),
        *(
            (f'{{"w": {{"dtype": "{dtype}", "shape": [8], "data_offsets": [0, 8]}}}}', f"'w' is stored as '{dtype}'")
            for dtype in ("F4", "F6_E2M3", "F6_E3M2", "X9", "f32")
        ),
        ('{"w": {"dtype": 7, "shape": [2], "data_offsets": [0, 8]}}', "damaged"),
        ('{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "damaged"),
        ('{"\\ud800": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}}', "stored as"),
    ],
    ids=range(20),
)
def test_headers_of_safetensors(tmp_path: Path, header: str, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    str(caught.value).encode()


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_000])
def test_a_header_that_claims_to_be_huge(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    with pytest.raises(CheckpointError, match="its header claims"):
        read_checkpoint(path)


def test_deep_metadata_stays_text(tmp_path: Path) -> None:
    texts = {str(depth): "[" * depth + "]" * depth for depth in (3, 31, 500, 100_000)} | {"big": "1e999"}
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata=texts)
    meta = read_checkpoint(tmp_path / "x.safetensors").meta
    assert meta["3"] == [[[]]]
    assert meta["31"] == texts["31"]
    assert meta["500"] == texts["500"]
    assert meta["big"] == "1e999"
    json.dumps(meta, allow_nan=False)


def test_a_float4_tensor_in_a_pickle(tmp_path: Path) -> None:
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no float4")
    tensor = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(CheckpointError, match=r"'w' is stored as 'float4_e2m1fn_x2'"):
        read_checkpoint(tensor_file(tmp_path / "x.pth", {"w": tensor}))


def test_no_class_of_ours_is_built(tmp_path: Path) -> None:
    content = b"\x80\x02crtmo_deploy.model.rtmo\nRTMO\n)R."
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", content)
    assert "pickled rtmo_deploy.model.rtmo.RTMO" in refusal(tmp_path / "x.pth")
    assert pickle.loads(b"\x80\x02crtmo_deploy.model.rtmo\nRTMO\n.") is RTMO
