"""Builds the native kernels with CMake; everything else stands in pyproject.toml.

EDGEPOSE_NATIVE=auto (default)  build them; where that fails, say why and install without them
EDGEPOSE_NATIVE=on              a failure ends the install
EDGEPOSE_NATIVE=off             do not build them
CMAKE_ARGS                      further arguments for CMake, for instance -DEDGEPOSE_DEV=ON
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).resolve().parent
MODE = os.environ.get("EDGEPOSE_NATIVE") or "auto"
if MODE not in ("auto", "on", "off"):
    raise SetupError(f"EDGEPOSE_NATIVE is not usable; found {MODE!r}; give auto, on or off")


class CMakeExtension(Extension):
    """An extension module that CMake knows by the last part of its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    """Builds `CMakeExtension`s."""

    def run(self) -> None:
        for ext in self.extensions:
            self.build_extension(ext)

    def build_extension(self, ext: Extension) -> None:
        module, note = self._products(ext)
        note.unlink(missing_ok=True)
        if MODE == "off":
            self._skip(ext, "EDGEPOSE_NATIVE=off when edgepose was installed")
            return
        try:
            self._run_cmake(ext, module.parent.resolve())
        except CompileError as error:
            if MODE == "on":
                raise
            self._skip(ext, str(error))

    def get_outputs(self) -> list[str]:
        return [str(path) for ext in self.extensions for path in self._products(ext) if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _products(self, ext: Extension) -> tuple[Path, Path]:
        """The module, and the note that says why there is none."""
        module = Path(self.get_ext_fullpath(ext.name))
        return module, module.with_name(f"{ext.name.rpartition('.')[2]}_skipped.txt")

    def _skip(self, ext: Extension, reason: str) -> None:
        module, note = self._products(ext)
        module.unlink(missing_ok=True)  # of an earlier build of other sources
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(reason + "\n", "utf-8")
        self.warn(f"{ext.name} skipped, numba or numpy will serve instead, slower: {reason}")

    def _run_cmake(self, ext: Extension, target: Path) -> None:
        cmake = _cmake()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            *cmake,
            "-S",
            str(ROOT),
            "-B",
            str(build),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        cached = build / "CMakeCache.txt"
        if shutil.which("ninja") and not cached.exists() and "CMAKE_GENERATOR" not in os.environ:
            configure += ["-G", "Ninja"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        _run("CMake could not configure the build", configure)
        _run("the compiler failed", [*cmake, "--build", str(build), "--target", ext.name.rpartition(".")[2]])


def _cmake() -> list[str]:
    """The cmake command: the one of the build environment, else the one on PATH."""
    try:
        import cmake
    except ImportError:
        found = shutil.which("cmake")
        if found is None:
            raise CompileError("CMake was not found; pip install cmake") from None
        return [found]
    return [str(Path(cmake.CMAKE_BIN_DIR) / "cmake")]


def _run(failure: str, command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
        raise CompileError(f"{failure}: {' '.join(lines[first : first + 4])[:500]}")


setup(ext_modules=[CMakeExtension("edgepose.kernels._native")], cmdclass={"build_ext": CMakeBuild})
