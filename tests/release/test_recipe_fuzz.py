"""Recipes that nobody would write, on the command line and carried out: always an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_toys import RECIPE, ToyActions, places

from rtmo_deploy.cli.app import _ErrorsToExitCodes
from rtmo_deploy.cli.release import release, verify
from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.release.actions import Actions
from rtmo_deploy.release.integrity import verify_release
from rtmo_deploy.release.pipeline import plan_release, run_release
from rtmo_deploy.release.schema import parse_release

app = typer.Typer(cls=_ErrorsToExitCodes)
app.command()(release)
app.command()(verify)
COMMAND = typer.main.get_command(app)
CODES = set(range(7))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def _somewhere(tmp_path_factory):
    """Relative outputs go to a folder of the test's own."""
    with contextlib.chdir(tmp_path_factory.mktemp("cwd")):
        yield


def called(*arguments):
    """Exit code, stdout and stderr of a command line; an exception that is no exit goes through and fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        COMMAND.main(list(map(str, arguments)))
    code = ended.value.code or 0
    assert code in CODES, (code, err.getvalue())
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr("rtmo_deploy.release.pipeline.Actions", ToyActions)


def written(content, folder):
    path = Path(folder) / "r.yaml"
    path.write_bytes(content)
    (Path(folder) / "ckpt.pth").write_bytes(b"weights")
    return path


NAMES = st.sampled_from(["source", "onnx", "fixed", "fp16", "int8", "published", "nothing", "ONNX", ""]) | st.text(
    max_size=5
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**20)
    | st.floats()
    | st.text(max_size=12)
    | NAMES
    | st.sampled_from(["..", "/", "a/../..", "ckpt.pth/x", "x" * 5000, "~", "C:\\x", "2026-01-01", "1e400", ".", "con"])
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


PLACES = list(places(yaml.safe_load(RECIPE)))[1:]


def replaced(recipe, place, value):
    target = recipe
    for part in place[:-1]:
        try:
            target = target[part]
        except (KeyError, IndexError, TypeError):
            return
    with contextlib.suppress(TypeError, IndexError):
        target[place[-1]] = value


class TestCommandLine:
    """``release --dry-run`` on files of any content; with what is right, it is carried out."""

    @given(st.binary(max_size=300))
    @QUICK
    def test_bytes(self, content):
        with tempfile.TemporaryDirectory() as folder:
            code, out, err = called("release", written(content, folder), "--dry-run")
            assert (code, out) == (2, "")
            assert "Error: " in err

    @given(st.text(max_size=300))
    @QUICK
    def test_text(self, content):
        with tempfile.TemporaryDirectory() as folder:
            code, _, err = called("release", written(content.encode("utf-8", "replace"), folder), "--dry-run")
            assert code == 2
            assert "Error: " in err

    @given(st.integers(0, len(RECIPE)), st.integers(0, 30), st.text(max_size=8), st.integers(0, len(RECIPE)))
    @QUICK
    def test_a_mangled_recipe(self, at, cut, put, end):
        text = RECIPE[:at] + put + RECIPE[at + cut :]
        if end < at:
            text = text[: max(end, 1)]
        with tempfile.TemporaryDirectory() as folder:
            code, _, err = called("release", written(text.encode("utf-8", "replace"), folder), "--dry-run")
            assert code in {0, 2, 3}, err

    @given(st.lists(st.tuples(st.sampled_from(PLACES), VALUE), min_size=1, max_size=4), st.booleans())
    @QUICK
    def test_values_in_wrong_places(self, changes, dry):
        recipe = yaml.safe_load(RECIPE)
        for place, value in changes:
            replaced(recipe, place, value)
        text = yaml.safe_dump(recipe, allow_unicode=True).encode("utf-8", "surrogatepass")
        with tempfile.TemporaryDirectory() as folder:
            path = written(text, folder)
            options = ["--dry-run"] if dry else ["-o", Path(folder) / "out"]
            code, _, err = called("release", path, *options)
            assert (code == 0) or "Error: " in err
            if code in {0, 6} and not dry:
                assert called("verify", Path(folder) / "out")[0] == 0

    @given(st.lists(st.tuples(st.sampled_from(PLACES), VALUE), min_size=1, max_size=2))
    @QUICK
    def test_values_in_wrong_places_and_the_real_actions(self, changes):
        recipe = yaml.safe_load(RECIPE)
        for place, value in changes:
            replaced(recipe, place, value)
        text = yaml.safe_dump(recipe, allow_unicode=True).encode("utf-8", "surrogatepass")
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr("rtmo_deploy.release.pipeline.Actions", Actions)
            code, _, err = called("release", written(text, folder), "--dry-run")
            assert (code == 0) or "Error: " in err

    @pytest.mark.parametrize("name", ["r.yaml/x", "x" * 5000, "", ".", "nothing.yaml"])
    def test_a_file_that_is_none(self, tmp_path, name):
        written(RECIPE.encode(), tmp_path)
        code, out, err = called("release", f"{tmp_path}/{name}", "--dry-run")
        assert (code, out) == (2, ""), err

    @given(NAMES)
    @settings(max_examples=20, deadline=None)
    def test_from_any_step(self, name):
        with tempfile.TemporaryDirectory() as folder:
            path = written(RECIPE.encode(), folder)
            assert called("release", path, "--dry-run", f"--from={name}")[0] in {0, 2}


@st.composite
def recipes(draw):
    """Recipes that are right as to form: any graph of artifacts, gates and benchmarks on them."""
    made = draw(
        st.dictionaries(
            st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,7}\Z"),
            st.sampled_from(["export", "cast", "quantize"]),
            max_size=6,
        )
    )
    artifacts = {"a": {"make": "export"}}
    for name, make in made.items():
        if name.lower() in {"source", "published", "baseline", *map(str.lower, artifacts)}:
            continue
        exports = [known for known, section in artifacts.items() if section["make"] == "export"]
        artifacts[name] = {"make": make} if make == "export" else {"make": make, "from": draw(st.sampled_from(exports))}
    known = ["source", *artifacts]
    some = st.sampled_from(known)
    points = st.floats(0, 0.2)
    gate = st.fixed_dictionaries({"artifact": some, "ap_min": points}) | st.fixed_dictionaries(
        {"artifact": st.sampled_from(list(artifacts)), "ap_drop_max": points}
    )
    contenders = draw(st.lists(some, min_size=1, max_size=4, unique=True))
    timed = st.sampled_from(contenders)
    bound = st.fixed_dictionaries({"artifact": timed, "p95_ms": st.floats(0.001, 1e9)}) | st.fixed_dictionaries(
        {"artifact": timed, "against": timed, "max_ratio": st.floats(0.001, 1e9)}
    )
    pairs = st.tuples(some, some).filter(lambda pair: pair[0] != pair[1])
    return {
        "name": draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,20}\Z")),
        "source": "ckpt.pth",
        "artifacts": artifacts,
        "accuracy": {"data": {"synthetic": {"images": 1}}, "gates": draw(st.lists(gate, max_size=3))},
        "parity": [{"a": a, "b": b, "synthetic": 1} for a, b in draw(st.lists(pairs, max_size=3))],
        "latency": [
            {
                "contenders": contenders,
                "people": draw(st.lists(st.integers(0, 60), max_size=3)),
                "gates": draw(st.lists(bound, max_size=3)),
            }
        ],
        "report": {"title": draw(st.none() | st.text(max_size=10).map(lambda text: text.replace("\0", "")))},
    }


class AnyActions(ToyActions):
    """Steps that fail or find odd figures, whatever is drawn."""

    def __init__(self, odd):
        super().__init__(ap=None)
        self.odd = odd

    def run(self, step, job):
        what = self.odd.get(step.action)
        if isinstance(what, RtmoDeployError):
            raise what
        self.ap.setdefault(step.inputs.get("model"), 50.0)
        outcome = super().run(step, job)
        return type(outcome)(outcome.files, {**outcome.facts, **(what or {})}, outcome.hidden)


ODD = st.dictionaries(
    st.sampled_from(["export", "cast", "quantize", "accuracy", "parity", "latency", "draw"]),
    st.sampled_from(
        [
            UsageError("No.", remedy="Never."),
            {"ap": None},
            {"ap": float("nan")},
            {"ap": float("inf")},
            {"verdict": "nobody found"},
            {"verdict": "differ", "failures": ["all <b>bad</b>"], "causes": ["a & b"], "notes": ["]]>"]},
            {"causes": ["as if \x07 swapped"]},
            {"people": {}},
            {"bounds": {}},
        ]
    ),
    max_size=3,
)


@given(recipes(), ODD, st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_recipe_that_is_right_ends_in_a_release_that_verifies(recipe, odd, strict):
    with tempfile.TemporaryDirectory() as folder:
        path = written(yaml.safe_dump(recipe, allow_unicode=True).encode("utf-8", "surrogatepass"), folder)
        out = Path(folder) / "out"
        try:
            parse_release(path.read_text(encoding="utf-8"), where=path)
        except (UsageError, UnicodeDecodeError):
            return  # such as a title that YAML does not take
        made = run_release(path, out, actions=AnyActions(odd), strict=strict)
        assert made.verdict in {"passed", "failed", "incomplete"}
        assert (made.error is not None) == (made.verdict == "failed")
        assert verify_release(out).ok
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        assert len(manifest["gates"]) == len(made.gates)
        again = AnyActions({})
        planned = plan_release(path, out, actions=again)
        assert not [why for step, why in planned if why and made.results[step.name].good]
