"""The command line: parse, call the library, print. No logic, and no heavy import before the work starts."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``rtmo-deploy`` command; Ctrl-C and SIGTERM end it with 130 and 143, from its start on."""
    import signal
    import sys

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        from rtmo_deploy.cli.streams import prepare

        prepare()
        from rtmo_deploy.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
