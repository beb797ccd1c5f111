"""Clean virtual environments, and what an installed edgepose must do in each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "c89", "c99", "cpp")


@dataclass
class Environment:
    """A virtual environment; commands run in an empty folder beside it, so that no checkout is near.

    Attributes:
        folder: where it is made.
        python: the interpreter that it is made from.
        variables: environment variables of every command, on top of this process's.
    """

    folder: Path
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.elsewhere = self.folder.parent / f"{self.folder.name}-elsewhere"
        self.elsewhere.mkdir(parents=True)
        run([self.python, "-m", "venv", str(self.folder)])

    def run(self, *command: str, status: int = 0, **variables: str) -> str:
        """Run a command of the environment; return what it printed on standard output and error.

        Raises:
            SystemExit: it ended with another status.
        """
        path = f"{self.folder / 'bin'}{os.pathsep}{self.variables.get('PATH', os.environ['PATH'])}"
        variables = {**self.variables, **variables, "PATH": path}
        return run([str(self.folder / "bin" / command[0]), *command[1:]], self.elsewhere, status, variables)

    def install(self, *requirements: str) -> None:
        """Run ``pip install``."""
        self.run("python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *requirements)

    def evaluate(self, code: str) -> Any:
        """Run Python code that leaves its answer in ``answer``; return it through JSON."""
        printed = self.run("python", "-c", f"{code}\nimport json\nprint(json.dumps(answer))")
        return json.loads(printed.splitlines()[-1])

    def check_predict(self) -> None:
        """The packaged model gives one person on the packaged photo, by command and by call."""
        sample = self.evaluate("from edgepose.samples import PERSON\nanswer = str(PERSON)")
        if not Path(sample).is_relative_to(self.folder):
            raise SystemExit(f"edgepose was not loaded from the environment; found {sample}")
        table = self.run("edgepose", "predict", sample, "--output", "result.json")
        (person,) = json.loads((self.elsewhere / "result.json").read_bytes())["persons"]
        missing = [joint for joint in person["keypoints"] if joint not in table]
        if missing:
            raise SystemExit(f"joints {missing} are not in the printed table:\n{table}")
        self.run("edgepose", "predict", sample, "--output", "drawn.jpg")
        drawn = self.elsewhere / "drawn.jpg"
        if not self.evaluate(
            "import cv2, edgepose.samples as samples\n"
            f"answer = bool((cv2.imread({str(drawn)!r}) != cv2.imread(str(samples.PERSON))).any())"
        ):
            raise SystemExit("nothing was drawn into the picture")
        scores = self.evaluate(
            "import edgepose\nfrom edgepose.samples import PERSON\n"
            "answer = edgepose.Estimator()(PERSON).scores[0].tolist()"
        )
        if len(scores) != len(person["keypoints"]) or not all(0 <= score <= 1 for score in scores):
            raise SystemExit(f"unusable joint scores: {scores}")

    def kernels(self) -> dict[str, Any]:
        """By op, the kernel implementation that serves, and why no faster one does."""
        answer: dict[str, Any] = self.evaluate("import edgepose\nanswer = edgepose.kernels.status()")
        return answer


def run(
    command: list[str], folder: Path = ROOT, status: int = 0, variables: Mapping[str, str] | None = None
) -> str:
    """Run a command; return what it printed.

    Raises:
        SystemExit: it ended with another status than `status`.
    """
    environment = {**os.environ, **(variables or {})}
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "EDGEPOSE_KERNELS"):
        environment.pop(name, None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != status:
        raise SystemExit(
            f"{' '.join(command)}\nended with {done.returncode}, expected {status}:\n{done.stdout}"
        )
    return done.stdout


def build(target: Path, source: Path = ROOT, *options: str) -> list[Path]:
    """Build sdist and wheel (from the sdist) into a folder, or what options of ``build`` say."""
    run([sys.executable, "-m", "build", *options, "--outdir", str(target), str(source)], source)
    return sorted(target.iterdir(), key=lambda path: path.suffix)  # .gz before .whl


def clone(target: Path) -> Path:
    """A fresh clone of the last commit, so that nothing uncommitted or ignored can help."""
    run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(target)])
    return target


def without_compilers(folder: Path) -> dict[str, str]:
    """Environment variables under which no C or C++ compiler is found: a PATH of links to all else."""
    folder.mkdir(parents=True)
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*") if place else ():
            tail = program.name.rpartition("-")[2]  # x86_64-linux-gnu-g++-12 ends in a version
            stem = program.name.removesuffix(f"-{tail}") if tail.replace(".", "").isdigit() else program.name
            link = folder / program.name
            if stem.rpartition("-")[2] not in COMPILERS and not link.is_symlink():
                link.symlink_to(program)
    for compiler in ("c++", "cc"):
        if found := shutil.which(compiler, path=str(folder)):
            raise SystemExit(f"a compiler is still there: {found}")
    return {"PATH": str(folder), "CC": "", "CXX": ""}
