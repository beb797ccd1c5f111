"""Train, evaluate and export networks of one configuration."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepose.errors import EdgePoseError, InvalidInputError, ModelNotFoundError

if TYPE_CHECKING:
    from torch import nn

    from training.config import TrainConfig

EVALUATION = """measure a network: top-down PCK@0.2 on LSP's 1,000 test pictures, PCKh on MPII's or AP on
COCO's data.validation_annotations; bottom-up AP on the pictures of data.validation_annotations, or, where
there are none and data.mosaics are given, AP and PCK@0.2 on 200 mosaics of 2x2 people of LSP's test
pictures"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; exit code 0, or 1 where it ran and failed, or 2 for wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or "=" not in word for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides += rest  # those that stand behind an option
    try:
        options.run(options)
    except EdgePoseError as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training: cannot read or write; {error}; check the path and the disk", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, run, text in (
        ("train", _train, "train a network (several processes: start it by torchrun)"),
        ("distill", _distill, "train a student, and before it the teacher that it needs and that is missing"),
        ("evaluate", _evaluate, EVALUATION),
        ("export", _export, "write an ONNX file that describes itself"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=run)
        verb.add_argument("config", help="YAML file, see training/configs")
        verb.add_argument(
            "overrides", nargs="*", metavar="KEY=VALUE", help="fields that differ from the file"
        )
        if name in ("train", "distill"):
            verb.add_argument("--resume", action="store_true", help="go on with the same run")
            continue
        verb.add_argument(
            "--weights",
            help="checkpoint, ours or official; none: the run's best.pt, or OKDHP's student.pt",
        )
        if name == "evaluate":
            verb.add_argument("--flip-test", action="store_true", help="average with the mirrored picture")
            verb.add_argument(
                "--scales",
                type=float,
                nargs="+",
                metavar="SCALE",
                help="bottom-up: average over these sizes of the picture, such as 0.5 1 2 (default: 1)",
            )
            verb.add_argument("--json", action="store_true", help="print JSON")
        else:
            verb.add_argument("-o", "--output", required=True, help="the ONNX file to write")
            verb.add_argument("--provenance", help="JSON file with an object that is stored with the model")
    text = "train students by every method with the same budget, as far as missing, and print the table"
    verb = verbs.add_parser("compare", help=text, description=text)
    verb.set_defaults(run=_compare)
    verb.add_argument("comparison", help="YAML file, see training/configs/comparison")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields of all its configurations")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    verb.add_argument("--print-only", action="store_true", help="train nothing, print what there is")
    verb.add_argument(
        "--write", type=Path, metavar="FILE", help="document to put the table into, between its marks"
    )
    text = "measure a model file and write its card and training curves beside it"
    verb = verbs.add_parser("card", help=text, description=text)
    verb.set_defaults(run=_card, overrides=[])
    verb.add_argument("model", type=Path, help="the ONNX file")
    verb.add_argument("--data", type=Path, required=True, help="folder that holds lsp/")
    verb.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="folders of its training runs, in order"
    )
    verb.add_argument("--notes", default="", help="what the runs were made on")
    verb.add_argument(
        "--coco",
        type=Path,
        nargs=2,
        metavar=("ANNOTATIONS", "IMAGES"),
        help="bottom-up: COCO val2017 pictures to score as well, which were not trained on",
    )
    return parser


def _train(options: argparse.Namespace) -> None:
    from training.config import load_config
    from training.loop import train

    train(load_config(options.config, options.overrides), resume=options.resume)


def _distill(options: argparse.Namespace) -> None:
    from training.config import load_config
    from training.distill.run import distill

    distill(load_config(options.config, options.overrides), resume=options.resume)


def _evaluate(options: argparse.Namespace) -> None:
    config, network, _ = _trained(options)
    measure = _bottom_up_figures if config.task == "bottomup" else _top_down_figures
    table = {name: v for name, v in measure(options, config, network).items() if not math.isnan(v)}
    if options.json:
        print(json.dumps(table))
        return
    for name, value in table.items():
        print(f"{name:<12} {value:8.4f}" if "AP" in table else f"{name:<12} {value:6.2f}")


def _top_down_figures(
    options: argparse.Namespace, config: TrainConfig, network: nn.Module
) -> dict[str, float]:
    import torch

    from training.data.sets import load_test
    from training.evaluate import evaluate
    from training.export import model_spec

    if options.scales:
        raise InvalidInputError(
            f"cannot evaluate a top-down network at scales {options.scales}; a person fills its crop; "
            "leave out --scales"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate(
        network.to(device),
        model_spec(config),
        load_test(config),
        flip_test=options.flip_test,
        workers=config.data.workers,
        device=device,
    )


def _bottom_up_figures(
    options: argparse.Namespace, config: TrainConfig, network: nn.Module
) -> dict[str, float]:
    """Figures on annotated pictures or, where there are none, on mosaics."""
    import torch

    from edgepose.evaluation.lsp import load_lsp
    from training.data.sets import load_pictures
    from training.evaluate_bottomup import evaluate_pictures, predict_pictures
    from training.evaluate_mosaics import held_out_mosaics, mosaic_figures
    from training.export import model_spec

    spec = model_spec(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scales = options.scales or (1.0,)
    network = network.to(device)
    if config.data.mosaics and config.data.validation_annotations is None:
        people = load_lsp(Path(config.data.root) / "lsp", 1001, 2000)
        mosaics = held_out_mosaics(people)
        images = (mosaic.image for mosaic in mosaics)
        found = predict_pictures(
            network, spec, images, flip_test=options.flip_test, scales=scales, device=device
        )
        table = mosaic_figures(mosaics, found, spec.skeleton)
    else:
        pictures = load_pictures(config, "validation")
        table = evaluate_pictures(
            network, spec, pictures, flip_test=options.flip_test, scales=scales, device=device
        )
    return table


def _export(options: argparse.Namespace) -> None:
    from training.export import export, model_spec

    config, network, provenance = _trained(options)
    if options.provenance:
        provenance |= _read_object(Path(options.provenance))
    difference = export(network, model_spec(config, provenance), options.output)
    print(f"{options.output}: differs from PyTorch by {difference:.1e} standard deviations", file=sys.stderr)


def _compare(options: argparse.Namespace) -> None:
    from training.comparison import read_comparison, run_missing
    from training.comparison_table import comparison_tables, replace_section

    runs = read_comparison(options.comparison, options.overrides)
    if not options.print_only:
        run_missing(runs, options.jobs)
    tables = comparison_tables(runs)
    print(tables)
    if options.write:
        options.write.write_text(replace_section(options.write.read_text("utf-8"), tables), "utf-8")


def _card(options: argparse.Namespace) -> None:
    from edgepose.evaluation.coco import load_coco
    from edgepose.evaluation.lsp import load_lsp
    from training.card import read_runs, write_card

    people = load_lsp(options.data / "lsp", 1001, 2000)
    pictures = load_coco(*options.coco) if options.coco else None
    write_card(options.model, people, read_runs(options.runs), options.notes, pictures)


def _trained(options: argparse.Namespace) -> tuple[TrainConfig, nn.Module, dict[str, Any]]:
    """The configuration, the network with its weights, and where these come from."""
    from training.checkpoints import load_weights, read_checkpoint
    from training.config import load_config, portable
    from training.distill.okdhp import branch_of, deployable
    from training.models import create

    config = load_config(options.config, options.overrides)
    path = Path(options.weights or config.folder / "best.pt")
    if not options.weights and not path.is_file():
        raise ModelNotFoundError(
            f"no trained network; found no {path}; train the configuration first, or give --weights FILE"
        )
    if config.model == "okdhp" and (not options.weights or branch_of(path) is not None):
        config, path = deployable(config, options.weights)
    network = create(config.model, **config.options)
    load_weights(network, path)
    provenance: dict[str, Any] = {
        "weights": path.name,
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    content = read_checkpoint(path)
    if isinstance(content.get("config"), dict):  # a best.pt says how it was trained
        provenance["config"] = portable(content["config"])
    if isinstance(content.get("training"), dict):  # a student's, of all branches
        provenance["training"] = portable(content["training"])
    return config, network, provenance


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read provenance {path}; {error}; give a JSON file") from error
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"cannot use provenance {path}; found a {type(content).__name__}; give a JSON object"
        )
    return content


if __name__ == "__main__":
    sys.exit(main())
