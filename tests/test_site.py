"""The pages of the documentation: generated parts are those of the code, links lead somewhere, nothing is left out."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import rtmo_deploy

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: Pages outside of ``docs`` with links into it.
OUTSIDE = ["README.md", "CONTRIBUTING.md", "recipes/README.md", "calibration/README.md", "benchmarks/README.md"]
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted(DOCS.rglob("*.md"))]
#: Packages whose exported names are for this project alone, or stand elsewhere.
UNLISTED = {"rtmo_deploy.cli", "rtmo_deploy.web", "rtmo_deploy.runtime.plugins", "rtmo_deploy.train.augment"}

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="needs the checkout")


def prose(page: Path) -> str:
    """Text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


@pytest.mark.parametrize("page", sorted((DOCS / "reference").rglob("*.md")), ids=lambda page: page.stem)
def test_what_is_generated_is_not_stale(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    text = page.read_text(encoding="utf-8")
    same = importlib.import_module("write_reference").written(text) == text
    assert same, "run: python docs/tools/write_reference.py"


def test_comments_become_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    comments = importlib.import_module("comments")
    source = (
        "#: A module's.\nA = 1\nclass B:\n    #: Two\n    #: lines.\n    c: int = 1\n    d: int = 2  #: Behind.\n"
        "    e: int = option(3, 'Of the ' 'command.')  # no description\n    f: int = 4  # none\n"
    )
    found = {"A": "A module's.", "B.c": "Two lines.", "B.d": "Behind.", "B.e": "Of the command."}
    assert comments.comments_of(source) == found
    assert comments.without_roles("See :class:`~a.B` and ``c``.") == "See `a.B` and `c`."


def test_the_description_of_a_page_is_its_first_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    first_paragraph = importlib.import_module("page_data").first_paragraph
    said = "With `--fp16` a [model](a.md) is cast, and **nothing** else\nis changed in the file."
    plain = "With --fp16 a model is cast, and nothing else is changed in the file."
    assert first_paragraph(f"# T\n\n```sh\nA\n\nB\n```\n\nShort.\n\n| A |\n\n{said}\n\nMore.") == plain
    assert first_paragraph("# Title\n\n- A list\n") == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^()\s]+)\)", prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), link
        # A page of the site leads to pages of the site: others are not there.
        assert not page.is_relative_to(DOCS) or target.is_relative_to(DOCS), link
        assert not parts.fragment or parts.fragment in anchors(target), link


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w/.-]+\.md", yaml.safe_dump(nav))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_environment_variable_is_described() -> None:
    text = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "rtmo_deploy").rglob("*.py"))
    used = set(re.findall(r"RTMO_DEPLOY_[A-Z_]+[A-Z]", source))
    assert len(used) >= 5
    assert used == set(re.findall(r"RTMO_DEPLOY_[A-Z_]+[A-Z]", text))


def test_every_package_with_exported_names_is_in_the_reference() -> None:
    texts = [page.read_text(encoding="utf-8") for page in (DOCS / "reference" / "python").glob("*.md")]
    listed = set(re.findall(r"^::: ([\w.]+)$", "\n".join(texts), re.MULTILINE))
    assert {f"rtmo_deploy.{name}" for name in rtmo_deploy.__all__} - {"rtmo_deploy.__version__"} <= listed
    packages = set()
    for module in pkgutil.walk_packages(rtmo_deploy.__path__, "rtmo_deploy."):
        file = ROOT / module.name.replace(".", "/") / "__init__.py"
        if module.ispkg and "__all__" in file.read_text(encoding="utf-8"):
            packages.add(module.name)
    expected = {name for name in packages - UNLISTED if not name.startswith("rtmo_deploy.compat.")}
    assert expected <= listed
    for name in listed - packages:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from rtmo_deploy import errors

    text = (DOCS / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RtmoDeployError)]
    assert codes == {0, 130} | {kind.exit_code for kind in kinds}
