"""Hostile and damaged pickles: each is refused by name, nothing of it runs, and no other error gets out."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.pickled import Inert
from rtmo_deploy.model.reader import read_checkpoint
from rtmo_deploy.model.unpickle import interpret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


# -- a small assembler for pickles; a value's code leaves it on the stack


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def tupled(*codes: bytes) -> bytes:
    return b"(" + b"".join(codes) + b"t"


def called(callee: bytes, *codes: bytes) -> bytes:
    return callee + tupled(*codes) + b"R"


def dictionary(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + code for key, code in entries.items()) + b"u"


ORDERED = called(named("collections", "OrderedDict"))
HISTORY = named("mmengine.logging.history_buffer", "HistoryBuffer")


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    return tupled(text("storage"), named("torch", kind), text(key), text("cpu"), number(numel)) + b"Q"


def numbers(values: tuple[int, ...]) -> bytes:
    return tupled(*map(number, values))


def tensor(
    offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), source: bytes | None = None
) -> bytes:
    function = named("torch._utils", "_rebuild_tensor_v2")
    source = storage() if source is None else source
    return called(function, source, number(offset), numbers(size), numbers(stride), b"\x89", ORDERED)


GOOD = tensor()


# -- files around them


def zip_file(path: Path, code: bytes, *, numel: int = 4) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code + b".")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", struct.pack(f"<{numel}f", *range(numel)))
    return path


def legacy_file(path: Path, code: bytes, *, slot: int = 3) -> Path:
    """The legacy format's five pickles, ``code`` in place of one of them: 3 is the checkpoint itself."""
    pickles: list[bytes] = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, SYSTEM, {}, ["0"])]
    pickles[3] = b"\x80\x02" + dictionary(state_dict=dictionary(w=GOOD)) + b"."
    # The real thing follows, so that what is put in front of it changes nothing when it is not noticed.
    pickles[slot] = b"\x80\x02" + code + b"." if slot == 3 else b"\x80\x02" + code + b"0" + pickles[slot][2:]
    path.write_bytes(b"".join(pickles) + struct.pack("<q4f", 4, 0, 1, 2, 3))
    return path


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "alone": lambda code: code,
    "in meta": lambda code: dictionary(meta=dictionary(cfg=code), state_dict=dictionary(w=GOOD)),
    "as weight": lambda code: dictionary(state_dict=dictionary(w=GOOD, x=code)),
    "as key": lambda code: dictionary(state_dict=b"}(" + code + GOOD + b"u"),
    "thrown away": lambda code: code + b"0" + dictionary(state_dict=dictionary(w=GOOD)),
}


# -- attacks: (name the error must contain, code); CANARY stands for the file a successful attack makes

RUN = "open('CANARY', 'w').close()"
TOUCH = text("touch 'CANARY'")


def chain() -> bytes:
    """``getattr(getattr(os-like, "system"), "__call__")`` out of nothing but getattr and a class."""
    getattr_ = named("builtins", "getattr")
    subclasses = called(called(getattr_, HISTORY, text("__subclasses__")))
    return called(called(getattr_, subclasses, text("__getitem__")), number(0))


ATTACKS: dict[str, tuple[str, bytes]] = {
    "os.system": ("os.system", called(named("os", "system"), TOUCH)),
    "posix.system by stack": ("posix.system", called(stack_named("posix", "system"), TOUCH)),
    "nt.system": ("nt.system", called(named("nt", "system"), TOUCH)),
    "subprocess": ("subprocess.call", called(named("subprocess", "call"), b"](" + text("touch") + b"e")),
    "eval": ("builtins.eval", called(named("builtins", "eval"), text(RUN))),
    "eval, Python 2 name": ("builtins.eval", called(named("__builtin__", "eval"), text(RUN))),
    "exec": ("builtins.exec", called(named("builtins", "exec"), text(RUN))),
    "import": ("builtins.__import__", called(named("builtins", "__import__"), text("antigravity"))),
    "open": ("builtins.open", called(named("builtins", "open"), text("CANARY"), text("w"))),
    "io.open": ("io.open", called(named("io", "open"), text("CANARY"), text("w"))),
    "type": ("builtins.type", called(named("builtins", "type"), text("X"), b")", b"}")),
    "map": ("builtins.map", called(named("builtins", "map"), named("builtins", "eval"), b"]")),
    "nested": ("os.system", called(named("builtins", "set"), called(named("os", "system"), TOUCH))),
    "partial": (
        "functools.partial",
        called(called(named("functools", "partial"), named("os", "system"), TOUCH)),
    ),
    "attrgetter": ("operator.attrgetter", called(named("operator", "attrgetter"), text("system"))),
    "methodcaller": ("operator.methodcaller", called(named("operator", "methodcaller"), text("unlink"))),
    "getattr chain": ("builtins.getattr", chain()),
    "getattr on a path": (
        "builtins.getattr",
        called(
            called(
                named("builtins", "getattr"),
                called(named("pathlib", "PosixPath"), text("CANARY")),
                text("touch"),
            )
        ),
    ),
    "getattr on another class": (
        "builtins.getattr",
        called(named("builtins", "getattr"), named("builtins", "dict"), text("update")),
    ),
    "getattr of a dunder": (
        "builtins.getattr",
        called(named("builtins", "getattr"), HISTORY, text("__init__")),
    ),
    "torch.load": ("torch.load", called(named("torch", "load"), text("CANARY"))),
    "torch.serialization.load": (
        "torch.serialization.load",
        called(named("torch.serialization", "load"), text("CANARY")),
    ),
    "torch.hub.load": ("torch.hub.load", called(named("torch.hub", "load"), text("x/y"), text("z"))),
    "torch.storage": (
        "torch.storage._load_from_bytes",
        called(named("torch.storage", "_load_from_bytes"), b"C\x00"),
    ),
    "numpy.load": ("numpy.load", called(named("numpy", "load"), text("CANARY"))),
    "numpy.save": ("numpy.save", called(named("numpy", "save"), text("CANARY"), number(1))),
    "runstring": (
        "numpy.testing._private.utils.runstring",
        called(named("numpy.testing._private.utils", "runstring"), text(RUN), b"}"),
    ),
    "runpy": ("runpy.run_path", called(named("runpy", "run_path"), text("CANARY"))),
    "codecs": ("_codecs.decode", called(named("_codecs", "decode"), b"C\x00", text("rot13"))),
    "other encoding": ("_codecs.encode", called(named("_codecs", "encode"), text("x"), text("rot13"))),
    "pickle": ("_pickle.loads", called(named("_pickle", "loads"), b"C\x01.")),
    "dotted name": (
        "OrderedDict.__init__.__globals__",
        stack_named("collections", "OrderedDict.__init__.__globals__"),
    ),
    "dotted name in a known package": (
        "HistoryBuffer.__init__",
        stack_named("mmengine", "HistoryBuffer.__init__"),
    ),
    "escapes in a name": (r"\\x2e", named(r"mmengine\x2ex", "y")),
    "control characters": ("\\x1b", stack_named("mmengine.\x1b[31m", "x")),
    "sibling of a known package": ("mmengine_evil.x", named("mmengine_evil", "x")),
    "ours": ("rtmo_deploy.errors.UsageError", named("rtmo_deploy.errors", "UsageError")),
    "copyreg": ("copyreg._reconstructor", named("copyreg", "_reconstructor")),
    "copyreg extension": ("copyreg.add_extension", named("copyreg", "add_extension")),
    "INST": ("INST", b"(" + TOUCH + b"ios\nsystem\n"),
    "OBJ": ("OBJ", b"(" + named("builtins", "set") + TOUCH + b"o"),
    "NEWOBJ_EX": ("NEWOBJ_EX", HISTORY + b")}\x92"),
    "NEWOBJ": ("subprocess.Popen", named("subprocess", "Popen") + tupled(TOUCH) + b"\x81"),
    "EXT1": ("EXT1", b"\x82\x01"),
    "EXT2": ("EXT2", b"\x83\x01\x00"),
    "EXT4": ("EXT4", b"\x84\x01\x00\x00\x00"),
    "PERSID": ("PERSID", b"Pos.system\n"),
    "buffer": ("NEXT_BUFFER", b"\x97"),
    "BUILD on an OrderedDict": (
        "OrderedDict",
        ORDERED + dictionary(__class__=named("builtins", "set")) + b"b",
    ),
    "BUILD with slots": ("OrderedDict", ORDERED + tupled(b"N", dictionary(update=b"N")) + b"b"),
    "BUILD on a class": ("HistoryBuffer", HISTORY + dictionary(x=b"N") + b"b"),
    "BUILD on a function": (
        "_rebuild_tensor_v2",
        named("torch._utils", "_rebuild_tensor_v2") + dictionary(__code__=b"N") + b"b",
    ),
    "BUILD on a type": ("FloatStorage", named("torch", "FloatStorage") + dictionary(dtype=b"N") + b"b"),
    "BUILD on a dtype": ("dtype", named("torch", "float32") + dictionary(x=b"N") + b"b"),
    "BUILD on a dict": ("dict", b"}}b"),
    "call of a result": ("call of a", called(called(named("builtins", "getattr"), HISTORY, text("mean")))),
    "call of a tensor": ("call of a TensorRef", called(GOOD)),
    "call of a string": ("call of a str", called(text("os.system"), TOUCH)),
    "a view of a storage": (
        "a view of another",
        tupled(
            *(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(4)),
            tupled(text("1"), number(0), number(4)),
        )
        + b"Q",
    ),
    "a model with its source": (
        "whole model",
        tupled(text("module"), HISTORY, text("evil.py"), text("import os")) + b"Q",
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _everything_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests watch ``sys.modules``: let the reader's own imports be done before."""
    code = dictionary(state_dict=dictionary(w=GOOD))
    read_checkpoint(zip_file(tmp_path_factory.mktemp("good") / "x.pth", code))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def armed(code: bytes, canary: Path) -> bytes:
    """Put the canary's path in, keeping the lengths of the texts around it right."""
    for long in (TOUCH, text(RUN), text("CANARY")):
        plain = long[5:].decode().replace("CANARY", str(canary))
        code = code.replace(long, text(plain))
    return code


def refuse(path: Path, canary: Path, expected: str) -> None:
    before = set(sys.modules)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(path))
    assert "\x1b" not in message
    assert caught.value.remedy
    assert not canary.exists()
    assert set(sys.modules) == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_name_wherever_it_hides(attack: str, place: str, tmp_path: Path, canary: Path) -> None:
    expected, code = ATTACKS[attack]
    code = PLACES[place](armed(code, canary))
    refuse(zip_file(tmp_path / "zip.pth", code), canary, expected)
    refuse(legacy_file(tmp_path / "legacy.pth", code), canary, expected)


@pytest.mark.parametrize("slot", [0, 1, 2, 4])
@pytest.mark.parametrize("attack", ["os.system", "eval", "INST", "getattr chain", "BUILD on an OrderedDict"])
def test_the_legacy_format_is_guarded_in_each_of_its_pickles(
    attack: str, slot: int, tmp_path: Path, canary: Path
) -> None:
    expected, code = ATTACKS[attack]
    if slot == 0:  # here the file must begin with the magic number to be taken for a checkpoint at all
        code = pickle.dumps(LEGACY_MAGIC, protocol=2)[2:-1] + b"0" + code
    refuse(legacy_file(tmp_path / "x.pth", armed(code, canary), slot=slot), canary, expected)


@pytest.mark.parametrize("attack", ["os.system", "posix.system by stack", "eval", "exec", "partial", "nested"])
def test_the_attacks_would_work_on_a_plain_unpickler(attack: str, canary: Path) -> None:
    """Else the tests above would prove nothing."""
    code = b"\x80\x02" + armed(ATTACKS[attack][1], canary) + b"."
    try:
        pickle.loads(code)
    except TypeError:
        assert attack == "nested"  # set(0), after the command ran
    assert canary.exists()


def test_the_files_around_the_attacks_are_good(tmp_path: Path) -> None:
    code = dictionary(state_dict=dictionary(w=GOOD))
    for path in (
        zip_file(tmp_path / "a.pth", code),
        legacy_file(tmp_path / "b.pth", code),
        *(legacy_file(tmp_path / f"{slot}.pth", b"N", slot=slot) for slot in (1, 2, 4)),
    ):
        assert read_checkpoint(path).tensors["w"].tolist() == [0, 1, 2, 3]


HARMLESS: dict[str, bytes] = {
    "history buffer": HISTORY + b")\x81" + dictionary(_log_history=b"N") + b"b",
    "its method": called(named("__builtin__", "getattr"), HISTORY, text("mean")),
    "array": called(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), b")", b"C\x01b")
    + tupled(number(1), b")", named("numpy", "dtype"), b"\x89", b"C\x00")
    + b"b",
    "a config": named("mmengine.config.config", "ConfigDict") + b")\x81(" + text("k") + b"Nu",
    "hyperparameters": named("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81(" + text("lr") + b"Nu",
    "arguments": named("argparse", "Namespace") + b")\x81" + dictionary(lr=b"N") + b"b",
    "a function that would run": called(named("mmengine.utils", "call_command"), TOUCH),
    "set": called(named("builtins", "set"), b"]"),
    "slice": called(named("builtins", "slice"), b"N", b"N", b"N"),
    "path": called(named("pathlib", "PosixPath"), text("CANARY")),
    "time": called(named("datetime", "datetime"), b"C\x0a1234567890"),
    "deque": called(named("collections", "deque"), b"]") + b"(" + text("x") + b"e",
    "set by instruction": b"\x8f(" + text("x") + b"\x90",
    "state dict metadata": ORDERED + dictionary(_metadata=ORDERED) + b"b",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_official_files_carry_is_passed_over(name: str, tmp_path: Path, canary: Path) -> None:
    code = armed(HARMLESS[name], canary)
    before = set(sys.modules)
    path = zip_file(
        tmp_path / "x.pth",
        dictionary(meta=dictionary(cfg=code, epoch=number(7)), state_dict=dictionary(w=GOOD)),
    )
    assert read_checkpoint(path).meta == {"epoch": 7}
    assert not canary.exists()
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [("history buffer", "HistoryBuffer"), ("set", "builtins.set"), ("set by instruction", "set")],
)
def test_a_stand_in_is_not_taken_for_a_weight(name: str, kind: str, tmp_path: Path) -> None:
    path = zip_file(tmp_path / "x.pth", dictionary(state_dict=dictionary(w=GOOD, x=HARMLESS[name])))
    with pytest.raises(CheckpointError, match=f"entry 'x' .* not a named tensor but a .*{kind}"):
        read_checkpoint(path)


def test_a_stand_in_can_be_a_key_and_take_items() -> None:
    code = b"}" + HARMLESS["a config"] + b"Ns" + tupled(number(1), text("a")) + b"Ns."
    value, _ = interpret(io.BytesIO(code))
    assert [type(key) for key in value] == [Inert, tuple]


# -- tensors that lie

HUGE = 1 << 62
LIES: dict[str, tuple[str, bytes]] = {
    "longer than its storage": ("beyond the end", tensor(size=(5,))),
    "offset beyond": ("beyond the end", tensor(offset=1)),
    "offset far beyond": ("impossible number", tensor(offset=HUGE)),
    "negative offset": ("impossible number", tensor(offset=-1)),
    "negative size": ("impossible number", tensor(size=(-4,))),
    "negative stride": ("impossible number", tensor(offset=3, stride=(-1,))),
    "stride beyond": ("beyond the end", tensor(size=(2,), stride=(4,))),
    "product overflows": ("absurdly large", tensor(size=(1 << 33, 1 << 33), stride=(0, 0))),
    "many dimensions": ("short list", tensor(size=(1,) * 65, stride=(1,) * 65)),
    "strides missing": ("other strides", tensor(size=(2, 2))),
    "empty but endless": ("absurdly large", tensor(size=(0, 1 << 39, 1 << 39), stride=(1, 1, 1))),
    "no storage": ("made from a int", tensor(source=number(4))),
    "stand-in as storage": ("made from a mmengine", tensor(source=HARMLESS["history buffer"])),
    "storage larger than its record": ("has 16 bytes", tensor(source=storage(numel=5))),
    "storage smaller than its record": ("has 16 bytes", tensor(size=(3,), source=storage(numel=3))),
    "storage of terabytes": ("has 16 bytes", tensor(source=storage(numel=1 << 40))),
    "storage of exabytes": ("impossible type or size", tensor(source=storage(numel=HUGE))),
    "storage of another type": ("has 16 bytes", tensor(source=storage(kind="DoubleStorage"))),
    "storage of no type": ("impossible type or size", tensor(source=storage(kind="device"))),
    "storage outside the archive": ("'archive/data/../../x' is missing", tensor(source=storage("../../x"))),
    "broadcast to gigabytes": ("many times more values", tensor(size=(1 << 30,), stride=(0,))),
    "pending negation": (
        "pending negation",
        called(
            named("torch._utils", "_rebuild_tensor_v2"),
            *(storage(), number(0), numbers((4,)), numbers((1,)), b"\x89", ORDERED, dictionary(neg=b"\x88")),
        ),
    ),
    "size is text": (
        "short list",
        called(named("torch._utils", "_rebuild_tensor"), storage(), number(0), text("4"), numbers((1,))),
    ),
    "size is a boolean": (
        "impossible number",
        called(named("torch._utils", "_rebuild_tensor"), storage(), number(0), tupled(b"\x88"), numbers((1,))),
    ),
    "element type is text": (
        "no element type",
        called(
            named("torch._utils", "_rebuild_tensor"), storage(), number(0), numbers((4,)), numbers((1,)), text("float")
        ),
    ),
    "too few arguments": ("do not fit", called(named("torch._utils", "_rebuild_tensor"), storage())),
    "parameter of nothing": ("holds no tensor", called(named("torch._utils", "_rebuild_parameter"), b"N")),
    "quantised": ("_rebuild_qtensor", named("torch._utils", "_rebuild_qtensor")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tensor_that_is_not_in_the_file_is_an_error(lie: str, tmp_path: Path) -> None:
    expected, code = LIES[lie]
    path = zip_file(tmp_path / "x.pth", dictionary(state_dict=dictionary(w=code)))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert expected in str(caught.value)


def test_two_descriptions_of_one_storage_contradict(tmp_path: Path) -> None:
    code = dictionary(w=GOOD, x=tensor(source=storage(kind="IntStorage")))
    with pytest.raises(CheckpointError, match="described in two ways"):
        read_checkpoint(zip_file(tmp_path / "x.pth", dictionary(state_dict=code)))


@pytest.mark.parametrize("numel", [3, 5, -1, 1 << 60])
def test_the_legacy_format_repeats_each_storages_size(tmp_path: Path, numel: int) -> None:
    path = legacy_file(tmp_path / "x.pth", dictionary(state_dict=dictionary(w=GOOD)))
    data = path.read_bytes()
    path.write_bytes(data[:-24] + struct.pack("<q", numel) + data[-16:])
    with pytest.raises(CheckpointError, match="'0' is not where it should be"):
        read_checkpoint(path)


# -- damaged pickles

BOMBS: dict[str, tuple[str, bytes]] = {
    "bytes of exabytes": ("sys.maxsize", b"\x8e" + b"\xff" * 8),
    "text of gigabytes": ("only 0 remain", b"X\xff\xff\xff\xff"),
    "frame of exabytes": ("not a checkpoint's dictionary", b"\x95" + b"\xff" * 8 + b"N"),
    "memo at four billion": ("not a checkpoint's dictionary", b"Nr\xff\xff\xff\xff"),
    "instructions without end": ("instructions", b"N0" * 1_600_000),
    "name without end": ("no end", b"c" + b"o" * 5000),
    "stack underflow": ("more values than it made", b"R"),
    "tuple underflow": ("more values than it made", b"N\x87"),
    "mark underflow": ("do not fit", b"Nt"),
    "memo underflow": ("do not fit", b"h\x07"),
    "not a pickle": ("0xff is no pickle instruction", b"\xff"),
    "not text": ("can't decode byte 0xff", b"X\x01\x00\x00\x00\xff"),
    "list as key": ("list is used as a key", b"}]Ns"),
    "nested tuple as key": ("tuple is used as a key", b"}" + b")" + b"\x85" * 100_000 + b"Ns"),
    "tensor as key": ("TensorRef is used as a key", b"}" + GOOD + b"Ns"),
    "dict in a set": ("dict is used as a key", b"(}\x91"),
    "items in a list": ("keys into a list", b"](NNu"),
    "append to a dict": ("appends to a dict", b"}Na"),
    "odd items": ("key without a value", b"}(NNNu"),
    "add to a list": ("adds members to a list", b"](N\x90"),
    "nameless global": ("not text", b"NN\x93"),
    "call without arguments": ("list of arguments", HISTORY + b"NR"),
    "ordered dict of something": ("made from arguments", called(named("collections", "OrderedDict"), b"]")),
    "foreign reference": ("not a tensor's storage", text("os") + b"Q"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_damage_and_bombs_are_errors(bomb: str, tmp_path: Path) -> None:
    expected, code = BOMBS[bomb]
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(zip_file(tmp_path / "x.pth", code))
    assert expected in str(caught.value)


def test_endless_nesting_is_read_and_passed_over(tmp_path: Path) -> None:
    nested = b"]" * 100_000 + b"a" * 99_999
    looped = b"]q\x00h\x00a"
    meta = dictionary(cfg=nested, loop=looped, seed=nested, epoch=number(3))
    path = zip_file(tmp_path / "x.pth", dictionary(meta=meta, state_dict=dictionary(w=GOOD)))
    assert read_checkpoint(path).meta == {"epoch": 3}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"]q\x00h\x00a", "too deep"),
        (
            b"]q\x00" + b"".join(b"0](" + bytes([104, i]) * 20 + b"eq" + bytes([i + 1]) for i in range(9)),
            "too large",
        ),
        (HARMLESS["path"], "a Inert"),
        (b"G" + struct.pack(">d", float("nan")), "not finite"),
    ],
    ids=["itself", "laughs", "object", "nan"],
)
def test_our_own_record_must_be_plain(code: bytes, expected: str, tmp_path: Path) -> None:
    meta = dictionary(rtmo_deploy=dictionary(x=code))
    path = zip_file(tmp_path / "x.pth", dictionary(meta=meta, state_dict=dictionary(w=GOOD)))
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(path)


def test_numpy_scalars_become_numbers() -> None:
    def scalar(code: str, data: bytes, order: str = "<") -> Any:
        kind = called(named("numpy", "dtype"), text(code), b"\x89", b"\x88")
        kind += tupled(number(3), text(order), b"N", b"N", b"N") + b"b"
        value, _ = interpret(
            io.BytesIO(called(named("numpy._core.multiarray", "scalar"), kind, b"C" + bytes([len(data)]) + data) + b".")
        )
        return value

    assert scalar("f8", struct.pack("<d", 0.1)) == 0.1
    assert scalar("i4", struct.pack("<i", -5)) == -5
    assert scalar("b1", b"\x01", "|") is True
    assert isinstance(scalar("f8", struct.pack(">d", 0.1), ">"), Inert)
    assert isinstance(scalar("O8", b"12345678"), Inert)
    assert isinstance(scalar("f8", b"1234"), Inert)


PIECES = [
    *(code for _, code in ATTACKS.values()),
    *HARMLESS.values(),
    *(code for _, code in LIES.values()),
    *(code for name, (_, code) in BOMBS.items() if name != "instructions without end"),
    *(bytes([value]) for value in range(256)),
    ORDERED,
    GOOD,
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.binary(max_size=8))
def test_no_program_gets_any_other_error_out(program: bytes, tail: bytes) -> None:
    try:
        value, storages = interpret(io.BytesIO(program + tail + b"."))
    except CheckpointError:
        return
    assert isinstance(storages, dict)
    assert not callable(value) or isinstance(value, torch.dtype)
