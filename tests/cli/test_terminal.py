"""What commands show: tables that fit, colour, progress on a terminal and in a log, help pages."""

from __future__ import annotations

import io
import os
import re
import shlex
import struct
import subprocess
import sys
import time

import pytest
import typer
from rich.console import Console
from rich.text import Text

from rtmo_deploy.cli import progress
from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.console import print_error, print_facts, print_table, stderr
from rtmo_deploy.cli.help import EXAMPLES
from rtmo_deploy.cli.layout import lay_out_facts, lay_out_table
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.progress import Count
from rtmo_deploy.report.table import Table

PATH = "/data/photographs/of/last/summer/with/many/people/000000000785.jpg"
HEADINGS = ("image", "input size", "people", "keypoint px", "score", "result", "note")
ROWS = (
    (PATH, "640x640", "12", "0.125", "0.9", "passed", "every keypoint is where it should be, and none is missing"),
    ("b.jpg", "1280x1280", "3", "13.5", "0.123456", "failed", "-"),
)


def table(rows=ROWS):
    caption = "Numbers are pixels of the network input."
    return Table("What was found in the images", HEADINGS, rows, caption, numbers=False)


def printed(shown, width):
    console = Console(file=io.StringIO(), width=width, soft_wrap=True, markup=False, highlight=False, emoji=False)
    if isinstance(shown, Table):
        lay_out_table(console, shown, marked=None, sections=[0])
    else:
        lay_out_facts(console, shown)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 250])
def test_a_table_fits_and_loses_nothing(width):
    text = printed(table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    letters = "".join(text.split())
    for word in ("Whatwasfound", "Numbersarepixels", "everykeypoint"):
        assert word in letters or width < 120
    if width >= 60:
        for heading in HEADINGS:
            for word in heading.split():
                assert re.search(rf"(?<!\S){word}(?!\S)", text), word
        for number in ("0.123456", "1280x1280", "13.5", "0.125"):
            assert re.search(rf"(?<!\S){re.escape(number)}(?!\S)", text), number
    if width == 250:
        assert PATH in text


def test_every_letter_of_a_folded_path_is_there():
    lines = printed(table(), 80).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("/data"))
    shown = ""
    for line in lines[start:]:
        if line.startswith("b.jpg"):
            break
        shown += re.split(r"\s{2,}", line)[0]
    assert shown == PATH


def test_numbers_end_in_one_column():
    lines = printed(table(), 120).splitlines()
    ends = {match.end() for line in lines if (match := re.search(r"\b(0\.125|13\.5)\b", line))}
    assert len(ends) == 1


def test_columns_that_tell_rows_apart_are_repeated():
    rows = [("1x3x256x256", kind, *["1.25e-03"] * 5) for kind in ("as it is", "emulated")]
    lines = printed(table(rows), 50).splitlines()
    assert sum("emulated" in line for line in lines) == sum("─" in line for line in lines) > 1


def test_a_long_word_among_facts_stays_whole():
    digest = "0123456789abcdef" * 4
    text = printed({"sha256": digest, "a long name of a fact": "short"}, 80)
    assert digest in text
    assert max(map(len, text.splitlines())) <= 80
    assert digest in "".join(printed({"sha256": digest}, 30).split())


def test_wide_letters_count_twice():
    text = printed({"file": "写真" * 40}, 60)
    assert max(Text(line).cell_len for line in text.splitlines()) <= 60


def test_an_empty_table_and_a_narrow_terminal():
    assert "people" in printed(table(()), 60)
    assert printed(table(), 10)


START = "import sys; from rtmo_deploy.cli.console import *; from rtmo_deploy.cli.progress import status\n"
RESULTS = START + "print_facts({'a': 'passed: all', 'b': 'failed', 'c': 'not measured: busy', 'd': 'x'})"


def run_python(code, **environment):
    known = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM"}}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=known | environment, check=True
    )
    return done.stdout, done.stderr


def on_a_terminal(code, columns=80, **environment):
    """What a process writes to a terminal."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm"} | environment,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


def test_colour_on_a_terminal_only():
    shown = on_a_terminal(RESULTS)
    assert "\x1b[32mpassed: all" in shown
    assert "\x1b[1;31mfailed" in shown
    assert "\x1b[33mnot measured: busy" in shown
    assert not re.search(r"\x1b\[[\d;]*3\d", on_a_terminal(RESULTS, NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal(RESULTS, TERM="dumb")
    assert "\x1b" not in run_python(RESULTS)[0]
    assert "\x1b[32mpassed: all" in run_python(RESULTS, FORCE_COLOR="1", TERM="xterm")[0]


def test_the_width_is_that_of_columns_of_the_terminal_or_80():
    code = START + "print(stdout().width)"
    assert run_python(code)[0].strip() == "80"
    assert run_python(code, COLUMNS="60", TERM="dumb")[0].strip() == "60"
    assert run_python(code, COLUMNS="nonsense")[0].strip() == "80"
    assert on_a_terminal(code, 97).strip() == "97"


COUNTING = START + (
    "import time; from rtmo_deploy.cli import progress; from rtmo_deploy.progress import Count\n"
    "progress.EVERY_S = 600\n"
    "with status('reading') as say:\n"
    "    for n in range(1, 201):\n"
    "        say(Count('detecting', n, 200, f'{n}.jpg')); time.sleep(0.003)\n"
    "    stderr().print('Note: something.')\n"
    "print('the result')\n"
)


def test_a_log_has_few_lines_and_a_terminal_a_bar():
    out, err = run_python(COUNTING, FORCE_COLOR="1", TERM="xterm")
    assert out == "the result\n"
    assert re.sub(r"\x1b\[[\d;]*m", "", err).splitlines() == [
        "reading ...",
        "detecting: 1 of 200 (1.jpg) ...",
        "Note: something.",
    ]
    shown = on_a_terminal(COUNTING, 60)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    assert "━" in plain
    assert re.search(r"detecting .*\d+ of 200, \d+ s left", plain)
    assert shown.rstrip().endswith("the result")


def test_a_line_every_few_seconds_with_the_time_left(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.status("opening") as say:
        for done in range(1, 101):
            say(Count("evaluating", done, 100))
            now += 1
        say(Count("writing", 1, 3).under("[2/5] int8"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "opening ..."
    assert lines[1] == "evaluating: 1 of 100 ..."
    assert lines[2] == "evaluating: 6 of 100, 94 s left ..."
    assert len(lines) == 2 + 20
    assert lines[-1] == "[2/5] int8: writing: 1 of 3 ..."


def test_a_download_is_told_in_a_log(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.download_bar("rtmo-s"):
        pass
    assert capsys.readouterr().err == ""
    with progress.download_bar("rtmo-s") as advance:
        for done in range(0, 40 * 2**20, 2**20):
            advance(done, 40 * 2**20)
            now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "downloading rtmo-s: 0 B of 40.0 MiB ..."
    assert lines[1] == "downloading rtmo-s: 10.0 MiB of 40.0 MiB, 15 s left ..."
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (7260, "2 h 01 min")]
)
def test_times_left(seconds, text):
    assert progress._duration(seconds) == text


def commands(group=None, names=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


def test_every_command_has_examples_that_it_understands():
    found = dict(commands())
    assert set(found) - set(EXAMPLES) == {"models list"}
    for name, examples in EXAMPLES.items():
        for example in examples:
            assert len(f"  rtmo-deploy {example}") <= 80
            words = shlex.split(example.partition(" > ")[0])[len(name.split()) :]
            assert example.startswith(name)
            found[name].make_context(name, words, help_option_names=["-h", "--help"])  # a usage error would be raised


def test_help_pages_fit_and_group_their_options():
    from typer.testing import CliRunner

    for name in EXAMPLES:
        page = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="rtmo-deploy").stdout
        assert max(map(len, page.splitlines())) <= 80, name
        assert "\nExamples:\n" in page, name
    page = CliRunner().invoke(app, ["eval", "--help"], prog_name="rtmo-deploy").stdout
    headings = re.findall(r"^(\w+):$", page, flags=re.MULTILINE)
    assert headings == ["Arguments", "Options", "Data", "Runtime", "Output", "Examples"]
    assert page.index("\nRuntime:") < page.index("--device") < page.index("\nOutput:") < page.index("--json")


def test_control_characters_are_visible(capsys):
    name = "a\x1b[31mred\r\x9b\u202e.jpg"
    print_facts({"file": name, name: "ok"})
    print_table(Table(name, ("file",), [(name,)], name))
    print_error(InputDataError("It is damaged.", where=name))
    stderr().print(f"Note: {name}")
    with progress.status(name):
        pass
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\r\x9b\u202e")
    assert out.count(r"a\x1b[31mred\r\x9b\u202e.jpg") == 5
    assert err.count(r"a\x1b[31mred\r\x9b\u202e.jpg") == 3
