"""What others wrote is printed as text: nothing in it is markup, and nothing steers a terminal."""

import io
import json
import re

import pytest
import typer
from rich.console import Console

from sotune.api.watching import ConsoleMonitor
from sotune.cli.console import Output, errors_told, figure_table, grid_table
from sotune.errors import DataError

EVIL = [
    "\x1b]0;title\x07\x1b[31mRED", "[/red]x", "[link=http://127.0.0.1:9/x]click[/link]", "[bold red]styled",
    "\u009b31mC1", "a\rc", "\u202egnp.exe", "\u2066x\u2069", "x\x00y", "[@click=app.quit]k[/]", ":skull:", "a\\",
    "\u200bzero", "\ud800", "[/]", "[red", "\\[red]x",
]  # fmt: skip
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("evil", EVIL)
def test_no_text_steers_the_terminal_or_is_markup(evil, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    table = figure_table(evil, {evil: evil})
    grid = grid_table(evil, [evil], {evil: [evil]})
    Output(quiet=False, as_json=False, dry_run=False).show(None, evil, table, grid, files=[evil])
    out = capsys.readouterr().out
    assert not STEERING.search(out)
    readable = "".join(c for c in evil if c.isprintable())
    assert re.sub(r"\s", "", out.replace("\N{REPLACEMENT CHARACTER}", "")).count(re.sub(r"\s", "", readable)) >= 9


def test_many_files_have_a_line_a_folder(capsys):
    output = Output(quiet=False, as_json=False, dry_run=False)
    output.show(None, files=[f"runs/first/{name}" for name in "abc"])
    assert capsys.readouterr().out.split("\n") == [*(f"wrote runs/first/{name}" for name in "abc"), ""]
    output.show(None, files=[f"runs/{folder}/{name}" for folder in ("first", "second") for name in "abcd"])
    assert capsys.readouterr().out == "wrote in runs/first: a, b, c, d\nwrote in runs/second: a, b, c, d\n"


@pytest.mark.parametrize("evil", EVIL)
def test_json_is_ascii_and_the_text_is_whole(evil, capsys):
    Output(quiet=False, as_json=True, dry_run=False).say({"id": evil}, "")
    out = capsys.readouterr().out
    assert out.isascii()
    assert not STEERING.search(out)
    assert json.loads(out) == {"id": evil}


@pytest.mark.parametrize("evil", EVIL)
def test_errors_warnings_and_progress_are_text(evil, capsys):
    output = Output(quiet=False, as_json=False, dry_run=False)
    with pytest.raises(typer.Exit), errors_told(output):
        raise DataError(evil)
    error = capsys.readouterr().err
    shown = io.StringIO()
    with ConsoleMonitor(Console(file=shown, force_terminal=False, width=200)) as monitor:
        monitor.stage(evil, "running")
        monitor.progress(evil, 1, 2)
        monitor.warn(evil)
    for out in (error, shown.getvalue()):
        assert not STEERING.search(out)
    assert "".join(c for c in evil if c.isprintable()) in error.replace("\N{REPLACEMENT CHARACTER}", "")
