"""What learned predictors have to beat: the lengths of requests alike in one thing, and an encoder as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV

from irouter import _core, prediction
from irouter.prediction.bins import Bins
from irouter.prediction.encoder_examples import Examples
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.encoder_network import mean_state
from irouter.prediction.metrics import quantile_edges
from irouter.prediction.pretrained import load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.prediction import Outcomes, RequestLog
    from irouter.prediction.encoder_training import EncoderOptions
    from irouter.prediction.requests import Requests

# A group of fewer rows says nothing of its lengths.
_FEWEST: Final = 20
_BINS: Final = 5
_INVERSE_PENALTIES: Final = (1e-4, 1e-3, 1e-2)
_BATCH: Final = 32


def by_key(log: RequestLog, key: Callable[[Requests, int], Hashable]) -> Outcomes:
    """The baseline that tells each test row the lengths of the training rows with the same key."""
    train, test = log.part("train", "val"), log.part("test")
    levels = np.asarray(prediction.LENGTH_LEVELS)
    keys = [key(train.requests, row) for row in range(len(train))]
    found = {}
    for name in {*keys}:
        rows = np.flatnonzero([other == name for other in keys])
        if len(rows) >= _FEWEST:
            found[name] = _core.censored_quantiles(train.output_tokens[rows], train.cut[rows], levels)
    everyone = _core.censored_quantiles(train.output_tokens, train.cut, levels)
    quantiles = np.stack([found.get(key(test.requests, row), everyone) for row in range(len(test))])
    lengths = prediction.LengthDistribution(quantiles)
    edges = quantile_edges(train.output_tokens, train.cut)
    return prediction.Outcomes(lengths, test.output_tokens, test.cut, edges)


def frozen(log: RequestLog, options: EncoderOptions | None, cache: Path) -> Outcomes:
    """The regression of `tfidf` on an encoder's mean states as they come, beside the prompt's form.

    Args:
        log: The log.
        options: The encoder and how it is run; not needed where the cache is there.
        cache: Where the states are kept.
    """
    train, test = log.part("train"), log.part("test")
    bins = Bins.fit(train.output_tokens, train.cut, count=_BINS)
    if options is not None and not cache.exists():
        np.savez_compressed(cache, train=_states(train, options, bins), test=_states(test, options, bins))
    with np.load(cache, allow_pickle=False) as archive:
        states = {name: archive[name] for name in archive.files}
    mean, scale = states["train"].mean(axis=0), np.maximum(states["train"].std(axis=0), 1e-3)
    possible = bins.possible(train.output_tokens, train.cut)
    share = possible / possible.sum(axis=1, keepdims=True)
    rows, targets = np.nonzero(share)
    # A few hundred states of a small log are soon learned by heart: how strong the penalty is, folds of it say.
    regression = LogisticRegressionCV(Cs=_INVERSE_PENALTIES, cv=3, scoring="neg_log_loss", max_iter=500)
    regression.fit(((states["train"] - mean) / scale)[rows], targets, sample_weight=share[rows, targets])
    probabilities = regression.predict_proba((states["test"] - mean) / scale)
    edges = quantile_edges(train.output_tokens, train.cut)
    return prediction.Outcomes(bins.distribution(probabilities), test.output_tokens, test.cut, edges)


def _states(log: RequestLog, options: EncoderOptions, bins: Bins) -> NDArray[np.float32]:
    encoder, tokenizer_file, _ = load_encoder(options.model)
    encoder.eval()
    examples = Examples.of(log, EncoderInputs(tokenizer_file, max_tokens=options.max_tokens), bins)
    states = np.empty((len(log), encoder.config.hidden_size), dtype=np.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        for rows in examples.in_order(_BATCH):
            (input_ids, attention_mask, _form), _ = examples.tensors(torch, rows, "cpu")
            states[rows] = mean_state(encoder, input_ids, attention_mask).float().numpy()
    return np.concatenate([states, examples.form], axis=1)
