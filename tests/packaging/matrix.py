"""Installs from source in clean environments: Pythons, numpy, OpenCV, with and without a compiler.

``python tests/packaging/matrix.py [WORD ...]`` runs the cases whose names hold one of the words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from environments import ROOT, Environment, build, without_compilers

OLD = ("numpy==1.26.*", "opencv-python>=4.8,<=4.11.0.86", "onnxruntime")
NEW = ("numpy>=2", "opencv-python>=5", "onnxruntime")
SUITE = ("pytest", "pytest-timeout", "hypothesis", "onnx")
# The parts of the suite that need no checkout.
LEFT_OUT = ("training", "packaging", "docs")


@dataclass(frozen=True)
class Case:
    """One environment and what must hold in it.

    Attributes:
        python: version of the interpreter.
        requirements: installed together with edgepose.
        check: called with the environment once all is installed.
        compiler: whether a compiler is there.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    check: Callable[[Environment], None]
    compiler: bool = True


def works(kernels: str, environment: Environment) -> None:
    """Pictures can be predicted, the suite passes, and these kernels serve; else why not is told."""
    environment.check_predict()
    for op, status in environment.kernels().items():
        if status["implementation"] != kernels:
            raise SystemExit(f"{op} is served by {status}, expected {kernels}")
        if kernels != "native" and "compiler" not in (status["reason"] or "").lower():
            raise SystemExit(f"{op} does not say that there was no compiler: {status}")
    environment.install(*SUITE)
    checks = environment.elsewhere / "checks"
    shutil.copytree(ROOT / "tests", checks / "tests", ignore=shutil.ignore_patterns(*LEFT_OUT, "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checks)
    options = ("-q", "-o", "addopts=", "-m", "not slow", "--rootdir", str(checks))
    shared = os.environ.get("EDGEPOSE_SHARED") or str(ROOT.parent / "shared")
    printed = environment.run("python", "-m", "pytest", *options, str(checks), EDGEPOSE_SHARED=shared)
    print(f"  {printed.splitlines()[-1]}")


def names_the_extra(module: str, environment: Environment) -> None:
    """Without a module, predicting fails with one clear error: no traceback, and what to install."""
    sample = environment.evaluate("from edgepose.samples import PERSON\nanswer = str(PERSON)")
    printed = environment.run("edgepose", "predict", sample, status=1)
    print(f"  {printed.strip()}")
    if "Traceback" in printed or module not in printed or 'pip install "edgepose[cpu]"' not in printed:
        raise SystemExit(f"a missing {module} is not told clearly:\n{printed}")


def runs_by_openvino(environment: Environment) -> None:
    """OpenVINO serves where it is the only runtime, and says so."""
    environment.check_predict()
    backend = environment.evaluate("import edgepose\nanswer = edgepose.Estimator().info.backend")
    print(f"  {backend}")
    if (backend["name"], backend["reason"]) != ("openvino", "onnxruntime is not installed"):
        raise SystemExit(f"expected OpenVINO, in the place of ONNX Runtime; found {backend}")
    environment.run("edgepose", "doctor")


CASES = (
    Case("3.10, numpy 1.26, OpenCV 4", "3.10", OLD, partial(works, "native")),
    Case("3.11, numpy 2, OpenCV 5", "3.11", NEW, partial(works, "native")),
    Case("3.12, numpy 1.26, OpenCV 4, numba", "3.12", (*OLD, "numba"), partial(works, "native")),
    Case("3.13, numpy 2, OpenCV 5, numba", "3.13", (*NEW, "numba"), partial(works, "native")),
    Case(
        "3.13, headless OpenCV",
        "3.13",
        ("opencv-python-headless", "onnxruntime"),
        partial(works, "native"),
    ),
    Case("3.11, no compiler", "3.11", NEW, partial(works, "numpy"), compiler=False),
    Case("3.12, no compiler, numba", "3.12", (*NEW, "numba"), partial(works, "numba"), compiler=False),
    Case("3.13, OpenVINO alone", "3.13", ("opencv-python", "openvino"), runs_by_openvino, False),
    Case("3.10, old OpenVINO", "3.10", ("opencv-python", "openvino==2024.4.*"), runs_by_openvino, False),
    Case("3.12, no ONNX Runtime", "3.12", ("opencv-python",), partial(names_the_extra, "onnxruntime"), False),
    Case("3.12, no OpenCV", "3.12", ("onnxruntime",), partial(names_the_extra, "cv2"), False),
)


def main(words: list[str]) -> int:
    """Run the cases; exit code 1 where one failed or none could run."""
    outcomes = {"ok": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        (sdist,) = build(work / "dist", ROOT, "--sdist")
        hidden = without_compilers(work / "path")
        for number, case in enumerate(CASES):
            if words and not any(word in case.name for word in words):
                continue
            print(f"{case.name} ...", flush=True)
            start = time.monotonic()
            outcome = "ok"
            interpreter = find_python(case.python)
            if interpreter is None:
                outcome = "skipped"
                print(f"  there is no Python {case.python}")
            else:
                try:
                    environment = Environment(
                        work / f"case{number}", interpreter, {} if case.compiler else hidden
                    )
                    environment.install(str(sdist), *case.requirements)
                    case.check(environment)
                except (SystemExit, Exception) as error:
                    outcome = "failed"
                    print(error if isinstance(error, SystemExit) else repr(error))
                shutil.rmtree(work / f"case{number}")
            outcomes[outcome] += 1
            print(f"{case.name}: {outcome} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{outcomes['ok']} passed, {outcomes['failed']} failed, {outcomes['skipped']} skipped")
    return 1 if outcomes["failed"] or not outcomes["ok"] else 0


def find_python(version: str) -> str | None:
    """An interpreter of that version: on PATH, or among pyenv's."""
    candidates = [shutil.which(f"python{version}"), *map(str, pyenv(version))]
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.splitlines()[1] == version:
            return done.stdout.splitlines()[0]
    return None


def pyenv(version: str) -> list[Path]:
    """Interpreters of that version that pyenv has installed."""
    return sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
