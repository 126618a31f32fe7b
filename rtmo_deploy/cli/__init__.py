"""The command line: parse, call the library, print. No logic, and no heavy import before the work starts."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``rtmo-deploy`` command."""
    from rtmo_deploy.cli.app import app

    app()
