"""The number of threads follows what the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgepose.backends.base import _quota, default_threads


@pytest.mark.parametrize(
    ("content", "cpus"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("junk", None)]
)
def test_quota_of_version_2(tmp_path: Path, content: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert _quota(tmp_path) == cpus or (cpus is None and _quota(tmp_path) > 1000)


@pytest.mark.parametrize(("quota", "cpus"), [("400000", 4), ("-1", None)])
def test_quota_of_version_1(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert _quota(tmp_path) == cpus or (cpus is None and _quota(tmp_path) > 1000)


def test_no_control_group(tmp_path: Path) -> None:
    assert _quota(tmp_path) > 1000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity() -> None:
    before = os.sched_getaffinity(0)
    assert 1 <= default_threads() <= len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
