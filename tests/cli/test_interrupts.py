"""Interrupts wait for the end of what is under way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from edgepose.cli.interrupts import Interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Whoever runs the tests may ignore SIGINT, as a shell's job in the background does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_whole(number: int, times: int, steps: list[str]) -> None:
    with Interrupts() as interrupts, interrupts.whole():
        for _ in range(times):
            signal.raise_signal(number)
        steps.append("done")


@BOTH
def test_work_is_finished_first(number: int) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_whole(number, 1, steps)
    assert steps == ["done"]


@BOTH
def test_who_insists_does_not_wait(number: int) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_whole(number, 2, steps)
    assert steps == []


@BOTH
def test_between_works_it_comes_at_once(number: int) -> None:
    with Interrupts() as interrupts:
        with interrupts.whole():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_an_error_of_the_work_is_not_hidden() -> None:
    def work() -> None:
        with Interrupts() as interrupts, interrupts.whole():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.whole():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_work_can_ask_whether_an_interrupt_waits() -> None:
    seen: list[Any] = []

    def work() -> None:
        with Interrupts(lambda: seen.append("told")) as interrupts, interrupts.whole():
            seen.append(interrupts.waiting)
            signal.raise_signal(signal.SIGINT)
            seen.append(interrupts.waiting)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [False, "told", True]
