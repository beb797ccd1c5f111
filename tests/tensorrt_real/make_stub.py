"""Make a CUDA driver library without a driver: ``make_stub.py OUTDIR CUDA_HOME [FOLDER_OF_CURAND]``.

Every function of ``libcuda.so.1`` that it writes returns CUDA_ERROR_NO_DEVICE, so that pycuda can be built,
loaded and asked on a machine without a GPU. It must never come before a real driver.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

NO_DEVICE = 100
HEADERS = ("cuda.h", "cudaProfiler.h", "cudaGL.h")
# A caller removes its own arguments, so that functions need not name them.
TEXTS = """
int cuGetErrorName(int error, const char **text) { *text = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "there is no CUDA driver"; return 0; }
"""


def functions(include: Path) -> list[str]:
    """Names of all functions that the headers speak of."""
    text = "".join((include / name).read_text(errors="replace") for name in HEADERS)
    names = set(re.findall(r"\bcu[A-Z]\w+", text))
    # What a header renames to a later version is still asked for under both names.
    return sorted(name for name in names if f"{name}(" not in TEXTS)


def make(folder: Path, cuda: Path, curand: Path | None) -> None:
    """Write ``libcuda.so.1`` and ``libcuda.so`` and, where its folder is given, cuRAND beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = functions(cuda / "include")
    source = folder / "stub.c"
    source.write_text(TEXTS + "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names))
    library = folder / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    _link(folder / "libcuda.so", library)
    if curand is not None:
        found = next(curand.glob("libcurand.so.*"))
        _link(folder / "libcurand.so", found)
        _link(folder / found.name, found)  # as it is looked for when pycuda is loaded


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
