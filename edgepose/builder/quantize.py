"""Static quantisation to 8 bits, in the graph: pairs of QuantizeLinear and DequantizeLinear (QDQ).

Weights are signed, symmetric and per channel; the layers that make the network's outputs stay in float.
Activations are, by `activations`:

- ``"uint8"``, with a zero point: what ONNX Runtime executes fast on x86, where it lets the quantisation
  itself do the work of a ReLU;
- ``"int8"``, symmetric: the only form that TensorRT takes, the natural one on Arm, and what OpenVINO runs
  fastest; on x86, ONNX Runtime runs it more slowly than float.

For TensorRT weights stay in float with a pair of their own behind them, and biases in float: it takes no
32-bit integers, and some versions no stored 8-bit ones. It quantises them when it builds.

The quantiser and its calibration are ONNX Runtime's.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepose.backends.base import INPUT, Batch
from edgepose.builder.graph import Graph, copy_of
from edgepose.builder.passes.byte_stem import join_bytes
from edgepose.errors import BuildError, CalibrationError, InvalidInputError
from edgepose.optional import first_line, require

__all__ = ["ACTIVATIONS", "METHODS", "Quantizer"]

METHODS = ("minmax", "entropy", "percentile")
"""How the range of an activation is taken from the calibration pictures."""
ACTIVATIONS = ("uint8", "int8")
KEPT_IN_FLOAT = {"BatchNormalization", "Gemm", "LayerNormalization", "Softmax"}
"""Operators that are not quantised. The first normalises bytes, where these are the input, and needs more
than 8 bits; the others see few numbers, so that it gains no time, and softmax is what 8 bits harm most."""
LEAST_PICTURES = 8
"""Fewer say too little about the activations' ranges."""

_CLASSES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


class Quantizer:
    """Quantises one model in several ways; each way of calibrating is done once.

    Args:
        model: ``onnx.ModelProto`` in float, simplified; it stays as it is.
        batches: inputs of real pictures, one each, as the runtime makes them.
        activations: see above.
        known: ranges, lowest and highest, that are not to be taken from the pictures, by activation.
        tensorrt: TensorRT will run the model.

    One at a time in a process: output and log of ONNX Runtime's tools are held back meanwhile.

    Raises:
        CalibrationError: there are too few pictures.
        BackendUnavailableError: onnx or onnxruntime is not installed.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        activations: str = "uint8",
        known: Mapping[str, tuple[float, float]] | None = None,
        *,
        tensorrt: bool = False,
    ) -> None:
        if activations not in ACTIVATIONS:
            raise InvalidInputError(f"unknown activations; found {activations!r}; give one of {ACTIVATIONS}")
        if len(batches) < LEAST_PICTURES:
            raise CalibrationError(
                f"too few pictures to calibrate on; found {len(batches)}; give at least {LEAST_PICTURES}, "
                "better some hundred, as the camera will see them"
            )
        self._onnx = require("onnx", "quantisation", "edgepose[build]")
        self._quantization = require("onnxruntime.quantization", "quantisation", "edgepose[cpu]")
        self._model = model
        self._batches = batches
        self._activations = activations
        self._known = dict(known or {})
        self._tensorrt = tensorrt
        self._ranges: dict[str, Any] = {}
        self.heads = Graph(model).output_layers()

    def candidates(self) -> list[str]:
        """Names of the convolutions that can be kept in float, in their order."""
        return [
            node.name
            for node in self._model.graph.node
            if node.op_type in ("Conv", "ConvTranspose", "MatMul") and node.name not in self.heads
        ]

    def quantize(self, method: str = "minmax", keep: Sequence[str] = ()) -> Any:
        """The quantised model.

        Args:
            method: of `METHODS`.
            keep: names of further nodes that stay in float.

        Raises:
            BuildError: the quantiser fails on this model.
        """
        ranges = self._calibrated(method)
        kinds = self._quantization.QuantType
        activation = kinds.QUInt8 if self._activations == "uint8" else kinds.QInt8
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises a preparation that our own passes have done
        try:
            quantizer = QDQQuantizer(
                copy_of(self._model),
                per_channel=True,
                reduce_range=False,
                weight_qType=kinds.QInt8,
                activation_qType=activation,
                tensors_range=ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=[*self.heads, *keep],
                op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry} - KEPT_IN_FLOAT),
                extra_options={
                    "ActivationSymmetric": self._activations == "int8",
                    "WeightSymmetric": True,
                    "AddQDQPairToWeight": self._tensorrt,
                    "QuantizeBias": not self._tensorrt,
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            join_bytes(Graph(quantizer.model.model))
            return quantizer.model.model
        except Exception as error:  # its errors have no common base
            raise BuildError(
                f"cannot quantise the model; onnxruntime says: {first_line(error)}; build it in float"
            ) from error
        finally:
            logging.disable(level)

    def _calibrated(self, method: str) -> Any:
        """Ranges of all activations by a method."""
        if method not in METHODS:
            raise InvalidInputError(
                f"unknown calibration; found {method!r}; give one of {', '.join(METHODS)}"
            )
        if method not in self._ranges:
            from onnxruntime.quantization.calibrate import TensorData, create_calibrator

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                self._onnx.save(self._model, str(path))
                try:
                    calibrator = create_calibrator(
                        path,
                        augmented_model_path=str(Path(folder) / "augmented.onnx"),
                        calibrate_method=getattr(self._quantization.CalibrationMethod, _CLASSES[method]),
                        extra_options={"symmetric": self._activations == "int8"},
                    )
                    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
                        for batch in self._batches:  # of any size each, and no more in memory than one's maps
                            calibrator.collect_data(_Reader(batch))
                        ranges = calibrator.compute_data()
                    for name, (lowest, highest) in self._known.items():
                        ranges.data[name] = TensorData(lowest=np.float32(lowest), highest=np.float32(highest))
                    self._ranges[method] = ranges
                except Exception as error:  # its errors have no common base
                    raise CalibrationError(
                        f"cannot calibrate by {method}; onnxruntime says: {first_line(error)}; give other "
                        "pictures"
                    ) from error
        return self._ranges[method]


class _Reader:
    """A batch as ONNX Runtime's calibration reads it."""

    def __init__(self, batch: Batch) -> None:
        self._left = iter([batch])

    def get_next(self) -> dict[str, Batch] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}
