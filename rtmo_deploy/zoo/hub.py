"""Files on the Hugging Face Hub: their addresses, the token, and what the Hub says of a file.

The environment is that of Hugging Face's own library: ``HF_ENDPOINT`` is the server, ``HF_TOKEN`` the token. The token
is sent to that server and to no other: ``requests`` drops it when an answer leads elsewhere.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from rtmo_deploy.address import is_prefix, without_credentials
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.zoo.transfer import Source

if TYPE_CHECKING:
    import requests

ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105
_ENDPOINT = "https://huggingface.co"
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_FORM = "Write hf://OWNER/REPOSITORY/PATH, or hf://OWNER/REPOSITORY/PATH@REVISION."

#: What the Hub says in X-Error-Code.
_ERRORS = {
    "RepoNotFound": "there is no such repository, or it is private",
    "RevisionNotFound": "the repository has no such revision",
    "EntryNotFound": "the repository has no such file",
    "GatedRepo": "the repository is gated: its owner must grant access",
    "DisabledRepo": "the repository is disabled",
}


@dataclass(frozen=True)
class HubFile:
    """A file in a repository."""

    repository: str  #: ``owner/name``; of a data set ``datasets/owner/name``, of a Space ``spaces/owner/name``.
    path: str
    revision: str = "main"  #: A branch, a tag or a commit.

    @classmethod
    def parse(cls, address: str) -> HubFile:
        """Read ``hf://owner/name/path[@revision]``; in the path, @ is %40.

        Raises:
            UsageError: It has another form.
        """
        rest, mark, revision = address[len("hf://") :].rpartition("@")
        rest, revision = (unquote(rest), unquote(revision)) if mark else (unquote(revision), "")
        kind = next((one for one in ("datasets/", "spaces/") if rest.startswith(one)), "")
        parts = rest.removeprefix(kind).split("/")
        names = all(_NAME.fullmatch(part) for part in parts[:2]) and len(parts) > 2
        if not names or {"", ".", ".."} & set(parts) or (mark and not re.fullmatch(r"[\w./-]+", revision)):
            raise UsageError(
                "It is not the address of a file on the Hub.", remedy=_FORM, where=without_credentials(address)
            )
        return cls(kind + "/".join(parts[:2]), "/".join(parts[2:]), revision or "main")

    def source(self) -> HubSource:
        """Where it is fetched; SetupError where ``HF_ENDPOINT`` is no address."""
        place = f"{self.repository}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"
        return HubSource(f"{endpoint()}/{place}")


def endpoint() -> str:
    """The Hub's address, without a slash at its end; SetupError where ``HF_ENDPOINT`` holds none."""
    found = os.environ.get(ENDPOINT_VARIABLE, "").strip() or _ENDPOINT
    if not is_prefix(found):
        raise SetupError(
            "It does not hold an address of the form https://host.",
            remedy="Correct or unset it.",
            where=ENDPOINT_VARIABLE,
        )
    return found.rstrip("/")


@dataclass(frozen=True)
class HubSource(Source):
    """A file's address on the Hub."""

    def auth(self) -> Any:
        """The token, for ``requests``; None without one. SetupError where no header can hold it."""
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if token and not re.fullmatch("[!-~]+", token):
            raise SetupError(
                "It holds blanks, line breaks or letters that no token has.",
                remedy="Copy the token again, or unset it.",
                where=TOKEN_VARIABLE,
            )
        return _token(token) if token else None

    def facts(self, answers: list[requests.Response]) -> dict[str, str]:
        """The commit, and of a large file its SHA-256, out of the Hub's own answers."""
        found = {}
        for answer in answers:
            if urlsplit(answer.url)[:2] != urlsplit(self.url)[:2]:
                continue
            commit = answer.headers.get("X-Repo-Commit", "")
            linked = answer.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"').lower()
            if re.fullmatch("[0-9a-f]{40}", commit):
                found["commit"] = commit
            if re.fullmatch("[0-9a-f]{64}", linked):
                found["sha256"] = linked
        return found

    def refusal(self, answer: requests.Response) -> str:
        """Why the Hub does not give the file."""
        status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
        if status not in {401, 403, 404}:
            return super().refusal(answer)
        why = _ERRORS.get(code) or {
            401: "there is no such repository, or it is private or gated",
            403: "access is not granted: the repository is private or gated",
            404: "there is no such file, revision or repository",
        }.get(status, "")
        if code in {"EntryNotFound", "RevisionNotFound"} or (status == 404 and code != "RepoNotFound"):
            return f"the Hub answered {status}: {why}"
        token = (
            f"the token in {TOKEN_VARIABLE} does not open it"
            if self.auth() is not None
            else f"for one that you may read, set {TOKEN_VARIABLE}"
        )
        return f"the Hub answered {status}: {why}; {token}"


def _token(token: str) -> Any:
    from requests.auth import AuthBase

    class Bearer(AuthBase):  # headers alone would give way to a .netrc file
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

    return Bearer()
