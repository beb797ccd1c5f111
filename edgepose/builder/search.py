"""Which way of quantising a model serves best, and which of its layers it must leave in float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgepose.builder.parity import Parity, Tolerance
from edgepose.builder.quantize import METHODS, Quantizer
from edgepose.errors import ParityError

__all__ = ["Quantized", "quantize_within"]

Measure = Callable[[Any], Parity]


@dataclass(frozen=True)
class Quantized:
    """A quantised model that keeps its bounds.

    Attributes:
        model: ``onnx.ModelProto``.
        parity: against the source.
        method: of calibration.
        tried: by method, the similarity (`Parity.oks`) that it gave.
        kept: layers that stay in float besides those that make the outputs.
        gains: by layer, by how much less the heatmaps differ (`Parity.heatmap_rms`) where this one alone
            stays in float; empty where the search was not needed.
    """

    model: Any
    parity: Parity
    method: str
    tried: dict[str, float]
    kept: tuple[str, ...] = ()
    gains: dict[str, float] = field(default_factory=dict)


def quantize_within(
    quantizer: Quantizer, measure: Measure, probe: Measure, tolerance: Tolerance, name: str
) -> Quantized:
    """Try all ways of calibrating and take the most similar; keep sensitive layers in float if it must be.

    Args:
        quantizer: of the model.
        measure: compares a quantised model with the source on all pictures.
        probe: the same on a few, for the search over the layers.
        tolerance: the bounds.
        name: for the message.

    Raises:
        ParityError: no more than half of the layers in float would keep the bounds.
    """
    found = {method: quantizer.quantize(method) for method in METHODS}
    parities = {method: measure(model) for method, model in found.items()}
    tried = {method: round(parity.oks, 6) for method, parity in parities.items()}
    method = min(METHODS, key=lambda m: (-parities[m].oks, parities[m].heatmap_rms))
    parity = parities[method]
    if not tolerance.broken(parity):
        return Quantized(found[method], parity, method, tried)

    whole = probe(found[method]).heatmap_rms
    layers = quantizer.candidates()
    gains = {layer: whole - probe(quantizer.quantize(method, [layer])).heatmap_rms for layer in layers}
    ranked = sorted(layers, key=lambda layer: -gains[layer])
    count = 1
    while count <= max(len(layers) // 2, 1):
        kept = tuple(ranked[:count])
        model = quantizer.quantize(method, kept)
        parity = measure(model)
        if not tolerance.broken(parity):
            return Quantized(model, parity, method, tried, kept, gains)
        count *= 2
    raise ParityError(
        f"{name} cannot be quantised within its bounds; found {', '.join(tolerance.broken(parity))} out "
        f"of bounds on {parity.pictures} pictures with {len(kept)} of {len(layers)} layers in float; build "
        f"it in float, or allow a larger drop\n{parity.table(tolerance)}"
    )
