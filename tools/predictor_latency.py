"""Times a fine-tuned encoder on ONNX Runtime beside the same encoder in plain torch, on one core.

python tools/predictor_latency.py FOLDER --encoder FOLDER_OR_NAME

FOLDER is a predictor with the back-end `encoder`. Both sides tokenise the same way and take turns, call by call. Times
are processor time of one thread, which is what one free core takes, whatever else the machine does. Needs the extra
`[train]`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from irouter import prediction
from irouter.prediction.benchmark import requests_of
from irouter.prediction.bins import Bins
from irouter.prediction.encoder import PRECISIONS, TOKENIZER, EncoderPredictor
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.encoder_network import LengthNetwork
from irouter.prediction.text import FORM_FEATURES, form_features

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter.prediction.requests import Requests

SIZES = (32, 128, 512)
BATCHES = (1, 64)


def plain_torch(encoder: str, inputs: EncoderInputs, bins: Bins) -> Callable[[Requests], Any]:
    """The same network as torch runs it: one padded batch, weights in 32 bits."""
    base = transformers.AutoModel.from_pretrained(encoder)
    features = len(FORM_FEATURES)
    network = LengthNetwork(base, bins.count, torch.zeros(features), torch.ones(features)).eval()

    def run(requests: Requests) -> Any:
        batch = inputs.batch(inputs.rows(requests))
        form = form_features(requests.prompts)
        with torch.inference_mode():
            return network(*map(torch.from_numpy, (batch.input_ids, batch.attention_mask, form))).numpy()

    return run


def main() -> None:
    """Times all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--encoder", required=True, help="the encoder that was fine-tuned: a name, or a folder"
    )
    parser.add_argument(
        "--repeats", type=int, default=15, help="calls of each kind; a fifth as many of batches"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="prompts per call")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens per prompt")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bins = Bins.from_data(prediction.read_card(arguments.folder).options["bins"])
    inputs = EncoderInputs(arguments.folder / TOKENIZER, max_tokens=max(arguments.sizes))
    runs = {"torch": plain_torch(arguments.encoder, inputs, bins)}
    for precision, file in PRECISIONS.items():
        if (arguments.folder / file).exists():
            runs[precision] = EncoderPredictor(arguments.folder / file, inputs, bins).logits
    print(f"| tokens | batch | {' | '.join(f'{name}, ms' for name in runs)} | torch / fastest |")
    print("|---|---|" + "---|" * (len(runs) + 1))
    for size in arguments.sizes:
        for batch in arguments.batches:
            repeats = arguments.repeats if batch == 1 else max(3, arguments.repeats // 5)
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(repeats + 1):
                # Two special tokens stand around the words.
                requests = requests_of(size - 2, batch, seed=turn)
                for name, run in runs.items():
                    start = time.process_time()
                    run(requests)
                    seconds[name].append(time.process_time() - start)
            medians = {name: 1000 * float(np.median(values[1:])) for name, values in seconds.items()}
            fastest = min(value for name, value in medians.items() if name != "torch")
            cells = " | ".join(f"{value:.1f}" for value in medians.values())
            print(f"| {size} | {batch} | {cells} | {medians['torch'] / fastest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
