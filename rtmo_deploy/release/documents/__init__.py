"""What a release's folder holds besides the artifacts: one module per document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rtmo_deploy.release.documents.bom import bom_json
from rtmo_deploy.release.documents.model_card import model_card
from rtmo_deploy.release.documents.report import junit_xml, report_html, summary_markdown
from rtmo_deploy.release.documents.statement import statement_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.release.record import Release, ReleaseFile

SUMMARY: Final = "summary.md"
#: Names of the documents that every release has, and what kind of file each is in the manifest.
DOCUMENTS: Final = {
    "recipe.yaml": "recipe",
    "junit.xml": "junit",
    SUMMARY: "summary",
    "report.html": "report",
    "statement.json": "statement",
    "bom.json": "bom",
    "MODEL_CARD.md": "model card",
}


def write_documents(release: Release, files: Sequence[ReleaseFile]) -> dict[str, bytes]:
    """The content of each of :data:`DOCUMENTS`, by its name.

    Args:
        release: What was built and measured.
        files: The artifacts and measurements of the folder.
    """
    return {
        "recipe.yaml": release.recipe_text,
        "junit.xml": junit_xml(release).encode(),
        SUMMARY: summary_markdown(release).encode(),
        "report.html": report_html(release, files).encode(),
        "statement.json": statement_json(release, files).encode(),
        "bom.json": bom_json(release, files).encode(),
        "MODEL_CARD.md": model_card(release, files).encode(),
    }
