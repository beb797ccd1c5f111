"""`python -m training train|evaluate|export`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgepose.errors import EdgePoseError


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; exit code 0, or 1 where it ran and failed, or 2 for wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except EdgePoseError as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, run, text in (
        ("train", _train, "train a network (several processes: start it by torchrun)"),
        ("evaluate", _evaluate, "PCK@0.2 on LSP's 1,000 test pictures"),
        ("export", _export, "write an ONNX file that describes itself"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=run)
        verb.add_argument("config", help="YAML file, see training/configs")
        verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields that differ from the file")
        if name == "train":
            verb.add_argument("--resume", action="store_true", help="go on with the same run")
            continue
        verb.add_argument("--weights", help="checkpoint; none: the run's best.pt")
        if name == "evaluate":
            verb.add_argument("--flip-test", action="store_true", help="average with the mirrored picture")
            verb.add_argument("--json", action="store_true", help="print JSON")
        else:
            verb.add_argument("-o", "--output", required=True, help="the ONNX file to write")
            verb.add_argument("--provenance", help="JSON file that is stored with the model")
    return parser


def _train(options: argparse.Namespace) -> None:
    from training.config import load_config
    from training.loop import train

    train(load_config(options.config, options.overrides), resume=options.resume)


def _evaluate(options: argparse.Namespace) -> None:
    from training.data.lsp import load_lsp
    from training.evaluate import evaluate
    from training.metrics import pck_table

    config, network, spec = _trained(options)
    people = load_lsp(Path(config.data.root) / "lsp", 1001, 2000)
    table = pck_table(evaluate(network, spec, people, flip_test=options.flip_test), spec.skeleton)
    if options.json:
        print(json.dumps(table))
        return
    for name, value in table.items():
        print(f"{name:<10} {value:6.2f}")


def _export(options: argparse.Namespace) -> None:
    from training.export import export

    _, network, spec = _trained(options)
    if options.provenance:
        spec = dataclasses.replace(spec, provenance=json.loads(Path(options.provenance).read_text()))
    difference = export(network, spec, options.output)
    print(f"{options.output}: differs from PyTorch by {difference:.1e} standard deviations", file=sys.stderr)


def _trained(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The configuration, the network with its trained weights, and its spec."""
    from edgepose.skeleton import lsp14
    from training.checkpoints import load_weights
    from training.config import load_config
    from training.export import model_spec
    from training.models import create

    config = load_config(options.config, options.overrides)
    network = create(config.model, **config.options)
    load_weights(network, options.weights or Path(config.output) / config.name / "best.pt")
    provenance = {"config": dataclasses.asdict(config), "numpy": np.__version__}
    return config, network, model_spec(config, lsp14, provenance)


if __name__ == "__main__":
    sys.exit(main())
