"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepose._files import whole_file, write_whole


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


def test_a_file_grows_elsewhere_and_is_there_when_complete(tmp_path: Path) -> None:
    path, folder = tmp_path / "a", tmp_path / "parts"
    folder.mkdir()
    with whole_file(path, durable=True, folder=folder) as file:
        file.write(b"1")
        file.write(b"2")
        assert [item.name for item in tmp_path.iterdir()] == ["parts"]
        assert len(list(folder.iterdir())) == 1
    assert path.read_bytes() == b"12"
    assert not list(folder.iterdir())


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(path.exists()))
    write_whole(tmp_path / "b", b"1")
    assert synced == []
    write_whole(path, b"2", durable=True)
    assert synced == [False, True]  # the file, then the name in its folder
