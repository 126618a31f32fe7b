"""Whatever is found on a machine, the rules judge it and say what to do."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rtmo_deploy.doctor import Facts, Verdict, judge
from rtmo_deploy.doctor.collecting import SAFE_PROVIDERS
from rtmo_deploy.doctor.facts import Driver, Folder, Gpu, Processor, Software, Trouble
from rtmo_deploy.doctor.requirements import EXTRAS, TESTED_PYTHON, requirements, shortfall
from rtmo_deploy.packages import ONNXRUNTIMES, OPENCVS

WORDS = st.text(max_size=12)
SAID = st.text(min_size=1, max_size=12).filter(str.strip)
NUMBERS = st.integers(0, 2**50)
VERSIONS = st.one_of(
    st.none(), WORDS, st.from_regex(r"[0-9]{1,2}\.[0-9]{1,3}(\.[0-9]{1,2})?(\+cu12[0-9])?", fullmatch=True)
)
TROUBLES = st.none() | st.builds(Trouble, st.sampled_from(["failed", "crashed", "slow"]), SAID)
MAYBE = st.none() | st.booleans()
PAIR = st.tuples(st.integers(0, 13), st.integers(0, 9))
NAMES = [*ONNXRUNTIMES, *OPENCVS, "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-stubs", "cuda-bindings"]
NAMES += [
    "nvidia-cublas-cu12",
    "nvidia-cublas-cu11",
    "nvidia-cublas",
    "nvidia-cudnn-cu12",
    "openvino",
    "torch",
    "numpy",
]

GPUS = st.lists(
    st.builds(
        Gpu,
        st.integers(0, 7),
        SAID,
        st.sampled_from([(7, 0), (9, 0), (8, 6)]) | PAIR,
        st.none() | NUMBERS,
        MAYBE,
        WORDS,
    ),
    max_size=3,
    unique_by=lambda gpu: gpu.index,
).map(tuple)
FOLDERS = st.builds(Folder, SAID, st.booleans(), st.none() | NUMBERS, MAYBE, WORDS, st.none() | NUMBERS, TROUBLES)
TRT = st.none() | st.builds(Software, VERSIONS, trouble=TROUBLES)
CORES = st.none() | st.integers(1, 256)

FACTS = st.builds(
    Facts,
    python=st.fixed_dictionaries(
        {
            "version": st.tuples(st.just(3), st.integers(9, 15), st.integers(0, 20)),
            "implementation": SAID,
            "bits": st.sampled_from([32, 64]),
            "executable": SAID,
            "system": SAID,
            "machine": st.sampled_from(["x86_64", "AMD64", "aarch64", "arm64", ""]),
        }
    ),
    package=st.fixed_dictionaries({"version": SAID, "recorded": st.none() | SAID, "folder": SAID}),
    distributions=st.dictionaries(st.sampled_from(NAMES), VERSIONS.map(lambda v: v or "")),
    imports=st.dictionaries(st.sampled_from(["numpy", "cv2", "PIL.Image", "onnx"]), SAID),
    imports_trouble=TROUBLES,
    kernel_file=st.just("") | SAID,
    cache_setting=st.just("") | SAID,
    shells=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    torch=st.none()
    | st.builds(
        Software,
        VERSIONS,
        VERSIONS,
        VERSIONS,
        st.none() | st.integers(0, 200_000),
        st.lists(st.sampled_from(["sm_70", "sm_90", "sm_90a", "compute_90", "gfx90a"]) | WORDS).map(tuple),
        MAYBE,
        MAYBE,
        why=WORDS,
        trouble=TROUBLES,
    ),
    onnxruntime=st.none() | st.builds(Software, VERSIONS, VERSIONS, saturates=MAYBE, trouble=TROUBLES),
    providers=st.lists(
        st.builds(
            Software,
            name=st.sampled_from(sorted(SAFE_PROVIDERS)) | SAID,
            usable=MAYBE,
            why=WORDS,
            trouble=TROUBLES,
        ),
        unique_by=lambda provider: provider.name,
    ).map(tuple),
    openvino=st.none() | st.builds(
        Software,
        VERSIONS,
        devices=st.dictionaries(SAID, WORDS, max_size=3),
        saturates=MAYBE,
        trouble=TROUBLES,
    ),
    tensorrt=TRT,
    tensorrt_rtx=TRT,
    driver=st.none()
    | st.builds(
        Driver, VERSIONS, st.none() | PAIR, st.just("") | SAID, st.none() | st.sampled_from([34, 100, 999]), GPUS,
        TROUBLES,
    ),
    nvidia_card=MAYBE,
    hidden=st.none() | WORDS,
    bindings=st.none() | st.builds(Software, gpu=MAYBE, why=WORDS, trouble=TROUBLES),
    cpu=st.builds(
        Processor,
        SAID,
        st.lists(st.sampled_from(["avx2", "avx512_vnni", "avx_vnni", "amx_int8"]), unique=True).map(tuple),
        CORES,
        CORES,
        st.none() | st.floats(0.01, 300),
        st.none() | NUMBERS,
        st.lists(SAID, max_size=2).map(tuple),
        TROUBLES,
    ),
    working=FOLDERS,
    cache=FOLDERS,
    seconds=st.floats(0, 1000),
)  # fmt: skip


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(FACTS)
def test_any_machine_is_judged(facts):
    report = judge(facts)
    names = [row.name for row in report.rows]
    assert len(names) == len(set(names))
    assert {"Python", "PyTorch", "ONNX Runtime", "CUDA driver", "decode kernel", "TensorRT", "[cpu]", "cache"} <= {
        name.split(",")[0] for name in names
    }
    assert sum(report.counts.values()) == len(names)
    assert report.ok == (report.counts["broken"] == 0) == (not report.broken)
    for row in report.rows:
        assert row.finding.strip()
        if row.verdict in {Verdict.WARNING, Verdict.BROKEN}:
            assert row.remedy, row
        if row.verdict is Verdict.FINE:
            assert not row.remedy, row
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [row["name"] for row in document["rows"]] == names
    assert set(document["counts"]) == {"fine", "warning", "broken", "absent"}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(FACTS, st.sampled_from(["driver", "tensorrt", "tensorrt_rtx", "openvino", "bindings"]))
def test_what_is_optional_and_not_there_breaks_nothing(facts, name):
    changed = Facts(**{**vars(facts), name: None, "shells": ()})
    areas = {"driver": "CUDA driver", "tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX", "openvino": "OpenVINO"}
    wanted = areas.get(name, "cuda-bindings")
    for row in judge(changed).rows:
        if row.name == wanted or row.name.startswith(f"{wanted} and"):
            assert row.verdict in {Verdict.ABSENT, Verdict.WARNING}, row
    if name == "driver":  # without a GPU, no rule about GPUs speaks
        pairs = {row.name for row in judge(changed).rows if row.area == "pairs"}
        assert pairs <= {"known bad pairs", "ONNX Runtime, twice", "OpenCV, twice", "cuDNN, twice"}


@given(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.integers(0, 30),
)
def test_bounds_are_those_of_numbers(version, low, high):
    text = ".".join(map(str, version))
    missing, outside = shortfall([Requirement(f"x>={low[0]}.{low[1]},<{high}")], {"x": text})
    assert (not outside) == ((*low, 0) <= version < (high, 0, 0))
    assert missing == []
    assert shortfall([Requirement(f"x>={low[0]}")], {}) == (["x"], [])


def test_names_are_compared_as_pip_does():
    assert all(canonicalize_name(name) == name for name in (*ONNXRUNTIMES, *OPENCVS))
    assert shortfall([Requirement("TensorRT_cu12.libs")], {"tensorrt-cu12-libs": "10"}) == ([], [])
    assert TESTED_PYTHON[0] < TESTED_PYTHON[1]
    assert all(requirements(extra) for extra in ("", *EXTRAS))
