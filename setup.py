"""Builds the kernels with CMake; everything else stands in pyproject.toml.

EDGEPOSE_NATIVE=auto (default)  build those for the CPU; where that fails, say why and install without them
EDGEPOSE_NATIVE=on              a failure ends the install
EDGEPOSE_NATIVE=off             do not build them
EDGEPOSE_CUDA=auto (default)    the same for those in CUDA, for the GPU of this machine, where it has one
EDGEPOSE_CUDA=on                build them for all usual GPUs, also without one; a failure ends the install
EDGEPOSE_CUDA=off               do not build them
CMAKE_ARGS                      further arguments for CMake, for instance -DEDGEPOSE_DEV=ON or, to choose the
                                GPUs, -DEDGEPOSE_CUDA_ARCHITECTURES=87-real
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
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
"""Of a PC, of Jetson boards before and since JetPack 6, and of Windows' Linux."""


class CMakeExtension(Extension):
    """An extension module that CMake knows by the last part of its name.

    Args:
        name: with its package.
        switch: the environment variable that says whether to build it.
        instead: what serves without it.
        definitions: for CMake.
    """

    def __init__(self, name: str, switch: str, instead: str, definitions: dict[str, str]) -> None:
        super().__init__(name, sources=[])
        self.switch = switch
        self.instead = instead
        self.definitions = definitions
        self.mode = os.environ.get(switch) or "auto"
        if self.mode not in ("auto", "on", "off"):
            raise SetupError(f"{switch} is not usable; found {self.mode!r}; give auto, on or off")

    @property
    def target(self) -> str:
        """CMake's name for it."""
        return self.name.rpartition(".")[2]

    def lacking(self) -> str | None:
        """Why it is not worth trying, if so."""
        return None


class CudaExtension(CMakeExtension):
    """The kernels on the device."""

    def lacking(self) -> str | None:
        if self.mode == "on":
            return None
        if not any(Path(device).exists() for device in GPU_DEVICES):
            return "this machine has no NVIDIA GPU; EDGEPOSE_CUDA=on builds them all the same"
        if _nvcc() is None:
            return "nvcc was not found; install the CUDA toolkit, or put its bin folder on PATH"
        self.definitions["EDGEPOSE_CUDA_ARCHITECTURES"] = "native"
        return None


def _nvcc() -> str | None:
    """The CUDA compiler, which toolkits do not always put on PATH."""
    places = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    return next(
        (str(path) for place in places if place and (path := Path(place) / "bin" / "nvcc").is_file()),
        shutil.which("nvcc"),
    )


class CMakeBuild(build_ext):
    """Builds `CMakeExtension`s."""

    def run(self) -> None:
        for ext in self.extensions:
            self.build_extension(ext)

    def build_extension(self, ext: CMakeExtension) -> None:
        module, note = self._products(ext)
        note.unlink(missing_ok=True)
        reason = ext.lacking()
        if ext.mode == "off" or reason:
            self._skip(ext, reason or f"{ext.switch}=off when edgepose was installed")
            return
        try:
            self._run_cmake(ext, module.parent.resolve())
        except CompileError as error:
            if ext.mode == "on":
                raise
            self._skip(ext, str(error))

    def get_outputs(self) -> list[str]:
        return [str(path) for ext in self.extensions for path in self._products(ext) if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _products(self, ext: CMakeExtension) -> tuple[Path, Path]:
        """The module, and the note that says why there is none."""
        module = Path(self.get_ext_fullpath(ext.name))
        return module, module.with_name(f"{ext.target}_skipped.txt")

    def _skip(self, ext: CMakeExtension, reason: str) -> None:
        module, note = self._products(ext)
        module.unlink(missing_ok=True)  # of an earlier build of other sources
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(reason + "\n", "utf-8")
        self.warn(f"{ext.name} skipped, {ext.instead}: {reason}")

    def _run_cmake(self, ext: CMakeExtension, target: Path) -> None:
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
            *(f"-D{name}={value}" for name, value in ext.definitions.items()),
        ]
        cached = build / "CMakeCache.txt"
        if shutil.which("ninja") and not cached.exists() and "CMAKE_GENERATOR" not in os.environ:
            configure += ["-G", "Ninja"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        _run("CMake could not configure the build", configure)
        _run("the compiler failed", [*cmake, "--build", str(build), "--target", ext.target])


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


setup(
    ext_modules=[
        CMakeExtension(
            "edgepose.kernels._native", "EDGEPOSE_NATIVE", "numba or numpy will serve instead, slower", {}
        ),
        CudaExtension(
            "edgepose.kernels._cuda", "EDGEPOSE_CUDA", "work around the network stays on the CPU",
            {"EDGEPOSE_CUDA": "ON", "EDGEPOSE_CUDA_ARCHITECTURES": "",
             **({"CMAKE_CUDA_COMPILER": nvcc} if (nvcc := _nvcc()) else {})},
        ),
    ],
    cmdclass={"build_ext": CMakeBuild},
)  # fmt: skip
