"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepose._files import write_whole


def test_parts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"12", memoryview(b"34"))
    assert path.read_bytes() == b"1234"
    write_whole(path)
    assert path.read_bytes() == b""
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        write_whole(path, b"newer")
    assert path.read_bytes() == b"older"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a", b"")
