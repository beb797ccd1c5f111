"""The progress line: only on a terminal, and never torn by messages."""

from __future__ import annotations

import io

import pytest

from edgepose.cli import progress
from edgepose.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, total: int | None, steps: int, hidden: bool = False
) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    bar = Progress(total, "frames", hidden=hidden)
    for _ in range(steps):
        bar.step()
    bar.message("a line")
    bar.close()
    return stream.getvalue()


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(monkeypatch, Terminal(), 4, 2)
    assert "[###############...............] 2/4 frames" in text
    assert "\r\x1b[Ka line\n" in text
    assert text.endswith("\r\x1b[K")


def test_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3 frames" in run(monkeypatch, Terminal(), None, 3)


@pytest.mark.parametrize(("stream", "hidden"), [(io.StringIO(), False), (Terminal(), True)])
def test_silent_elsewhere(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, hidden: bool) -> None:
    assert run(monkeypatch, stream, 4, 2, hidden) == "a line\n"


def test_items_that_are_announced_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream := Terminal())
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    bar = Progress(0, "steps")
    bar.grow(2)
    bar.step()
    bar.grow(2)
    bar.step()
    text = stream.getvalue()
    assert "1/2 steps" in text
    assert "2/4 steps" in text


def test_more_items_than_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "5/2 frames" in run(monkeypatch, Terminal(), 2, 5)


def test_errors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    bar = Progress(10, "pictures")
    bar.step(4)
    assert "failed" not in stream.getvalue()
    bar.step(2, errors=2)
    assert "6/10 pictures" in stream.getvalue()
    assert stream.getvalue().endswith("left  2 failed")
