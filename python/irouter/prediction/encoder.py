"""A fine-tuned encoder, run by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.bins import Bins
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.requests import Requests
from irouter.prediction.text import form_features

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.prediction.card import Card
    from irouter.prediction.distribution import LengthDistribution

PRECISIONS: Final = {"fp32": "model.onnx", "int8": "model-int8.onnx"}
"""File of each precision."""

TOKENIZER: Final = "tokenizer.json"
"""File of the tokenizer."""

# Rows are sorted by length and run so many at a time: little is padded, and a batch stays in the cache.
_BATCH: Final = 16


class EncoderPredictor:
    """A fine-tuned encoder: on CUDA where ONNX Runtime has it, else on the CPU. Safe to call from several threads.

    Tokens and logits are computed without the interpreter's lock.

    Args:
        model_file: The network as ONNX.
        inputs: Makes its rows.
        bins: Bins of its head.
        threads: Threads of one call; 0 is one per core.

    Raises:
        IrouterError: For a file that is no network of this kind, or without the extra `[predict]`.
    """

    def __init__(self, model_file: Path, inputs: EncoderInputs, bins: Bins, *, threads: int = 1) -> None:
        runtime = require("onnxruntime", extra="predict", purpose="an encoder")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in runtime.get_available_providers()]
        try:
            self._session = runtime.InferenceSession(str(model_file), options, providers=providers)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise IrouterError(f"{model_file}: not a network that ONNX Runtime reads: {reason}") from error
        names = [item.name for item in self._session.get_inputs()]
        if names != ["input_ids", "attention_mask", "form"]:
            raise IrouterError(
                f"{model_file}: inputs {', '.join(names)}, expected input_ids, attention_mask, form"
            )
        self._inputs = inputs
        self._bins = bins

    @property
    def provider(self) -> str:
        """What runs it, such as `CPUExecutionProvider`."""
        return str(self._session.get_providers()[0])

    def predict(
        self,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None = None,
        apps: Sequence[str | None] | None = None,
    ) -> LengthDistribution:
        """As :meth:`irouter.prediction.LengthPredictor.predict`."""
        return self.predict_requests(Requests.check(prompts, tasks, apps))

    def predict_requests(self, requests: Requests) -> LengthDistribution:
        """The same for requests that are checked."""
        logits = self.logits(requests)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return self._bins.distribution(odds / odds.sum(axis=1, keepdims=True))

    def logits(self, requests: Requests) -> NDArray[np.float64]:
        """Logits `[request, bin]`."""
        rows, form = self._inputs.rows(requests), form_features(requests.prompts)
        order = np.argsort([len(row) for row in rows], kind="stable")
        logits = np.zeros((len(rows), self._bins.count))
        for start in range(0, len(rows), _BATCH):
            some = order[start : start + _BATCH]
            batch = self._inputs.batch([rows[row] for row in some])
            feeds = {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "form": form[some],
            }
            logits[some] = self._session.run(None, feeds)[0]
        return logits

    @classmethod
    def load(
        cls, folder: Path, card: Card, *, precision: str | None = None, threads: int = 1
    ) -> EncoderPredictor:
        """Loads an exported encoder.

        Args:
            folder: Its folder.
            card: The folder's card.
            precision: `fp32` or `int8`; the card's own choice without it.
            threads: Threads of one call; 0 is one per core.

        Raises:
            IrouterError: For a precision that the folder does not have, or a file that does not fit.
        """
        options: dict[str, Any] = dict(card.options)
        chosen = precision or options.get("precision")
        if chosen not in PRECISIONS:
            raise IrouterError(f"precision {chosen!r}, expected {' or '.join(PRECISIONS)}")
        model_file = folder / PRECISIONS[chosen]
        if not model_file.is_file():
            raise IrouterError(f"{folder}: no {model_file.name}, which `irouter predictor export` writes")
        inputs = EncoderInputs(folder / TOKENIZER, max_tokens=int(options["max_tokens"]))
        return cls(model_file, inputs, Bins.from_data(options.get("bins", {})), threads=threads)
