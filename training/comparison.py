"""The comparison of training methods on the same students with the same budget: runs and figures."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from edgepose.errors import InvalidInputError
from edgepose.spec import Decoder, ModelSpec
from training.checkpoints import load_weights, read_checkpoint
from training.config import TrainConfig, load_config
from training.data.sets import load_test
from training.distill.teacher import best_weights
from training.evaluate import evaluate
from training.export import model_spec
from training.loop import begun, is_complete, read_log, train
from training.models import create
from training.models.layers import count_macs
from training.models.okdhp import Branched, extract_branch

__all__ = ["DECODERS", "METHODS", "Comparison", "Run", "read_comparison", "run_missing"]

log = logging.getLogger(__name__)

METHODS = ("plain", "stages", "fpd", "plain_fpd", "okdhp", "okdhp_unbalanced")
"""Of each student, in the order of the table; all see the same number of pictures."""

ADJUSTABLE = ("data", "output", "precision", "epochs", "batch_size", "optimizer", "ema", "evaluate_every")
"""What may be changed for all configurations of a comparison at once."""

BETAS = (10, 20, 40, 80, 160, 320, 640)
DECODERS: dict[str, Decoder] = {
    "arg-max": Decoder("argmax", refine=None),
    "arg-max, quarter step": Decoder("argmax", refine="quarter"),
    "arg-max, Taylor step": Decoder("argmax", refine="taylor"),
    **{f"soft arg-max, beta {beta}": Decoder("soft_argmax", beta=beta, refine=None) for beta in BETAS},
    "soft arg-max, beta 160, quarter step": Decoder("soft_argmax", beta=160, refine="quarter"),
}
"""How the heatmaps of the plainly trained students are decoded for comparison."""


@dataclass
class StudentPlan:
    """A student's configuration, and options of `okdhp` for branches as deep as it, and for deeper ones."""

    config: str = MISSING
    balanced: dict[str, Any] = field(default_factory=dict)
    unbalanced: dict[str, Any] = field(default_factory=dict)


@dataclass
class Comparison:
    """What is compared; paths are from the folder of the file on."""

    name: str = MISSING
    teacher: str = MISSING
    """Configuration of the teacher of FPD, one for all students and seeds."""
    students: dict[str, StudentPlan] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    stages: int = 3
    """Of LPN's iterative training; each has its share of the student's epochs."""


@dataclass(frozen=True)
class Run:
    """One training of the comparison; the teacher has no student, and its seed is that of its file.

    Attributes:
        configs: what is trained, one after the other; the last is what is measured.
        teacher: configuration of the teacher that it needs.
    """

    student: str
    method: str
    seed: int
    configs: tuple[TrainConfig, ...]
    teacher: TrainConfig | None = None

    @property
    def folder(self) -> Path:
        return self.configs[-1].folder

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"


def read_comparison(path: str | PathLike[str], overrides: list[str] | None = None) -> list[Run]:
    """The runs of a comparison, the teacher first, then seed by seed.

    Args:
        path: YAML file with the fields of `Comparison`.
        overrides: ``key.sub=value`` texts for the configurations of students and teacher, of the
            `ADJUSTABLE` fields.

    Raises:
        InvalidInputError: a file is missing or not usable, other fields are to be changed, or the methods
            would not see the same number of pictures.
    """
    path = Path(path)
    for text in overrides or []:
        if text.split("=")[0].split(".")[0] not in ADJUSTABLE:
            raise InvalidInputError(
                f"a comparison's networks and crops are those of its files; found {text}; change the files; "
                f"from here only {', '.join(ADJUSTABLE)}"
            )
    if not path.is_file():
        raise InvalidInputError(f"no comparison; found no file {path}; see training/configs/comparison")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Comparison), OmegaConf.load(path))
        absent = OmegaConf.missing_keys(merged)
        if absent:
            raise ValueError(f"found no {', '.join(sorted(absent))}")
        plan = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        text = " ".join(str(error).split("\n    ")[0].split())
        raise InvalidInputError(
            f"comparison {path} is not usable; {text}; the fields are those of training/comparison.py"
        ) from error
    assert isinstance(plan, Comparison)
    if plan.stages < 2 or not plan.seeds or not plan.students:
        raise InvalidInputError(
            f"comparison {path} is not usable; found {plan.stages} stages, {len(plan.seeds)} seeds and "
            f"{len(plan.students)} students; give two stages and one of the others at least"
        )

    def configured(file: str, name: str) -> TrainConfig:
        config = load_config(path.parent / file, overrides)
        return replace(config, name=f"{plan.name}/{name}")

    teacher = configured(plan.teacher, "teacher")
    runs = [Run("", "teacher", teacher.seed, (teacher,))]
    for seed in plan.seeds:
        for student, entry in plan.students.items():
            base = configured(entry.config, student)
            if base.epochs % plan.stages:
                raise InvalidInputError(
                    f"comparison {path} is not usable; found {base.epochs} epochs of {student!r} for "
                    f"{plan.stages} stages, with fewer pictures then; give epochs that can be divided"
                )
            for method in METHODS:
                base.distill.teacher_config = str(path.parent / plan.teacher)
                base.distill.teacher = str(best_weights(teacher))
                configs = _configs(plan, entry, replace(base, seed=seed), method)
                asked = teacher if configs[-1].distill.method == "fpd" else None
                runs.append(Run(student, method, seed, configs, asked))
    return runs


def _configs(
    plan: Comparison, student: StudentPlan, base: TrainConfig, method: str
) -> tuple[TrainConfig, ...]:
    """The trainings of one method with the student's epochs in all."""

    def named(part: str, **changes: Any) -> TrainConfig:
        config = copy.deepcopy(base)
        return replace(config, name=f"{base.name}-{part}-{base.seed}", **changes)

    fpd = replace(base.distill, method="fpd")
    if method == "plain":
        return (named("plain"),)
    if method == "stages":
        return (named("stages", stages=plan.stages, epochs=base.epochs // plan.stages),)
    if method == "fpd":
        return (named("fpd", distill=fpd),)
    if method == "plain_fpd":
        first = named("half", epochs=base.epochs // 2)
        second = named(
            "plain_fpd",
            distill=fpd,
            epochs=base.epochs - base.epochs // 2,
            weights=str(best_weights(first)),
            seed=base.seed + 1000,
        )
        return first, second
    cut = student.balanced if method == "okdhp" else student.unbalanced
    options = {"base": base.model, **base.options, **cut}
    okdhp = replace(base.distill, method="okdhp", ramp_up=base.epochs * 3 // 5)
    return (named(method, model="okdhp", options=options, distill=okdhp),)


def run_missing(runs: list[Run], jobs: int = 1) -> None:
    """Train and measure the runs that have no result yet, `jobs` at a time; what was begun goes on.

    A run that fails does not end the others, but for those that need the teacher if it is the teacher's;
    its error is raised when they are done.

    Raises:
        InvalidInputError: `jobs` is below 1; what a run raises.
    """
    if jobs < 1:
        raise InvalidInputError(f"no {jobs} trainings at a time; found jobs {jobs}; give 1 or more")
    missing = [run for run in runs if not run.result_file.is_file()]
    errors = _perform_in_turn(missing) if jobs == 1 else _perform_together(missing, jobs)
    if errors:
        raise errors[0]


def _perform_in_turn(missing: list[Run]) -> list[BaseException]:
    errors: list[BaseException] = []
    while missing:
        run = missing.pop(0)
        try:
            perform(run)
        except Exception as error:  # the others do not depend on it
            missing = _without(missing, run, error)
            errors.append(error)
    return errors


def _without(missing: list[Run], run: Run, error: BaseException) -> list[Run]:
    """The runs that are left when one has failed: those of FPD need the teacher."""
    log.error("%s failed; %s", run.folder, error)
    return [other for other in missing if other.teacher is None] if run.method == "teacher" else missing


def _perform_together(missing: list[Run], jobs: int) -> list[BaseException]:
    errors: list[BaseException] = []
    threads = max(torch.get_num_threads() // jobs, 1)
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(threads,)
    ) as pool:
        running: dict[Future[None], Run] = {}
        while missing or running:
            done_teacher = all(run.method != "teacher" for run in [*missing, *running.values()])
            ready = [run for run in missing if done_teacher or run.teacher is None]
            for run in ready[: jobs - len(running)]:
                missing.remove(run)
                running[pool.submit(perform, run)] = run
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                run = running.pop(future)
                if error := future.exception():
                    missing = _without(missing, run, error)
                    errors.append(error)
    return errors


def _start_worker(threads: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)


def perform(run: Run) -> None:
    """Train what is missing of one run, and write its figures to `Run.result_file`."""
    for config in run.configs:
        if not is_complete(config):
            log.info("training %s", config.name)
            train(config, resume=begun(config))
    result = measure(run)
    part = run.result_file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(run.result_file)
    log.info("%s: %.2f", run.folder, result["test"]["mean"])


def measure(run: Run) -> dict[str, Any]:
    """Figures of a trained run on the test people.

    Returns:
        ``test``: the scorer's table of the deployable network; ``branches`` and ``ensemble``: the headline
        figures of branched ones; ``decoders``: those of a plain student by decoder; ``pictures`` seen,
        ``seconds`` of training; ``parameters`` and ``macs`` of the deployable network; ``training_macs`` of
        all that is run forward for a picture: a teacher once when it is trained, and once when it is asked.
    """
    config = run.configs[-1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = create(config.model, **config.options)
    load_weights(network, best_weights(config))
    network.to(device)
    spec, scorer = model_spec(config), load_test(config)

    def table(net: nn.Module, description: ModelSpec = spec) -> dict[str, float]:
        return evaluate(net, description, scorer, device=device)

    size = spec.input_size
    result: dict[str, Any] = {"training_macs": count_macs(network, size)}
    deployable, test = network, table(network)
    if isinstance(network, Branched):
        students = [extract_branch(network, b) for b in range(len(network.students))]
        tables = [table(student) for student in students]
        result["branches"] = [found[scorer.headline] for found in tables]
        result["ensemble"] = test[scorer.headline]
        chosen = read_checkpoint(run.folder / "student.pt")["branch"]
        deployable, test = students[chosen], tables[chosen]
    if run.teacher is not None:
        teacher = count_macs(create(run.teacher.model, **run.teacher.options), size)
        asked = sum(entry.epochs for entry in run.configs if entry.distill.method == "fpd")
        result["training_macs"] += teacher * (1 + asked / sum(entry.epochs for entry in run.configs))
    if run.method == "plain":
        specs = {name: replace(spec, decoder=decoder) for name, decoder in DECODERS.items()}
        result["decoders"] = {
            name: table(network, changed)[scorer.headline] for name, changed in specs.items()
        }
    lines = [line for entry in run.configs for line in read_log(entry.folder)]
    return {
        "test": test,
        **result,
        "macs": count_macs(deployable, size),
        "parameters": sum(p.numel() for p in deployable.parameters()),
        "pictures": sum(line["pictures"] for line in lines),
        "seconds": sum(line["seconds"] for line in lines),
    }
