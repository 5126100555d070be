"""A fine-tuned encoder from torch to ONNX, and to 8-bit weights."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.encoder import PRECISIONS, TOKENIZER, EncoderPredictor
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.text import form_features

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.prediction.encoder_training import TrainedEncoder
    from irouter.prediction.log import RequestLog
    from irouter.prediction.requests import Requests

LOGIT_TOLERANCE: Final = 2e-3
"""Largest difference of a logit between torch and ONNX in fp32."""

INT8_TAU_LOSS: Final = 0.01
"""Most that 8-bit weights may cost in Kendall's tau before fp32 is used instead."""

_OPSET: Final = 18
# Rows on which the two are compared.
_COMPARED: Final = 64


def export(trained: TrainedEncoder, validation: RequestLog, folder: Path) -> dict[str, Any]:
    """Writes the network in both precisions with its tokenizer, and returns what a card says of it.

    8-bit weights are chosen when they rank the validation rows as well as fp32 does, within `INT8_TAU_LOSS`.

    Raises:
        IrouterError: When ONNX Runtime does not compute what torch does, or without the extra `[train]`.
    """
    shutil.copyfile(trained.tokenizer_file, folder / TOKENIZER)
    _write_fp32(trained, folder / PRECISIONS["fp32"])
    _write_int8(folder / PRECISIONS["fp32"], folder / PRECISIONS["int8"])
    inputs = EncoderInputs(folder / TOKENIZER, max_tokens=trained.options.max_tokens)
    predictors = {
        name: EncoderPredictor(folder / file, inputs, trained.bins) for name, file in PRECISIONS.items()
    }
    some = validation.rows(np.arange(min(_COMPARED, len(validation)))).requests
    difference = float(np.abs(predictors["fp32"].logits(some) - torch_logits(trained, inputs, some)).max())
    if difference > LOGIT_TOLERANCE:
        raise IrouterError(
            f"ONNX Runtime differs from torch by {difference:.4f} in a logit, expected {LOGIT_TOLERANCE}"
        )
    tau = {
        name: _core.kendall_tau_b(
            predictor.predict_requests(validation.requests).expected,
            validation.output_tokens.astype(np.float64),
        )
        for name, predictor in predictors.items()
    }
    loss = (tau["fp32"] or 0.0) - (tau["int8"] or 0.0)
    return {
        "max_tokens": trained.options.max_tokens,
        "bins": trained.bins.to_data(),
        "precision": "int8" if loss <= INT8_TAU_LOSS else "fp32",
        "logit_difference_fp32": difference,
        "kendall_tau_loss_int8": loss,
    }


def torch_logits(trained: TrainedEncoder, inputs: EncoderInputs, requests: Requests) -> NDArray[np.float64]:
    """Logits `[request, bin]` as torch computes them."""
    torch = require("torch", extra="train", purpose="exporting an encoder")
    batch = inputs.batch(inputs.rows(requests))
    arrays = (batch.input_ids, batch.attention_mask, form_features(requests.prompts))
    with torch.no_grad():
        logits: NDArray[np.float64] = trained.network(*map(torch.from_numpy, arrays)).numpy()
    return logits


def _write_fp32(trained: TrainedEncoder, path: Path) -> None:
    torch = require("torch", extra="train", purpose="exporting an encoder")
    require("onnxscript", extra="train", purpose="exporting an encoder")
    example = (
        torch.ones((2, 8), dtype=torch.int64),
        torch.ones((2, 8), dtype=torch.int64),
        torch.zeros((2, trained.network.form_mean.numel())),
    )
    rows, positions = torch.export.Dim("rows"), torch.export.Dim("positions")
    with warnings.catch_warnings():
        # The exporter speaks of its own insides.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            trained.network,
            example,
            str(path),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["input_ids", "attention_mask", "form"],
            output_names=["logits"],
            dynamic_shapes=({0: rows, 1: positions}, {0: rows, 1: positions}, {0: rows}),
            external_data=False,
            verbose=False,
        )


def _write_int8(source: Path, path: Path) -> None:
    require("onnx", extra="train", purpose="exporting an encoder")
    quantization = require("onnxruntime.quantization", extra="predict", purpose="exporting an encoder")
    quantization.quantize_dynamic(
        str(source),
        str(path),
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )
