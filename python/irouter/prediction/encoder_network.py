"""The network of the encoder predictor, in torch: for training and export only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class LengthNetwork(nn.Module):  # type: ignore[misc]  # torch is not in every environment
    """An encoder, the mean of its last hidden states, the prompt's form beside it, and a logit per bin of lengths.

    Args:
        encoder: A Hugging Face encoder that returns `last_hidden_state`.
        bins: Number of bins.
        form_mean: Mean of each form feature in training.
        form_scale: Standard deviation of each.
    """

    def __init__(self, encoder: Any, bins: int, form_mean: torch.Tensor, form_scale: torch.Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("form_mean", form_mean)
        self.register_buffer("form_scale", form_scale)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(encoder.config.hidden_size + form_mean.numel(), bins)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, form: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[request, bin]`."""
        pooled = mean_state(self.encoder, input_ids, attention_mask)
        shape = (form - self.form_mean) / self.form_scale
        logits: torch.Tensor = self.head(torch.cat([self.dropout(pooled), shape], dim=1))
        return logits


def mean_state(encoder: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean of the last hidden states `[request, feature]` over the tokens of each request."""
    states: torch.Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def censored_loss(logits: torch.Tensor, possible: torch.Tensor, *, ranked: float) -> torch.Tensor:
    """Mean loss of a batch: the negative log-likelihood of what was seen, and the ranked probability score.

    Args:
        logits: Logits `[request, bin]`.
        possible: How much of each bin a length may lie in: one bin of a whole length, all that is left of a cut one.
            The likelihood of a cut length is the probability of surviving it, as for censored data anywhere.
        ranked: Weight of the ranked probability score (Epstein, 1969), which knows that bins have an order. It counts
            only at edges where it is known on which side the length lies.
    """
    probabilities = logits.softmax(dim=1)
    likelihood = -(probabilities * possible).sum(dim=1).clamp(min=1e-9).log()
    # Known to lie above an edge while no bin up to it is possible, known to lie below once none beyond is.
    up_to = possible.cumsum(dim=1)[:, :-1]
    beyond = possible.sum(dim=1, keepdim=True) - up_to
    is_above, is_below = (up_to <= 0).float(), (beyond <= 0).float()
    predicted = probabilities.cumsum(dim=1)[:, :-1]
    score = (is_above * predicted.square() + is_below * (1.0 - predicted).square()).sum(dim=1)
    return (likelihood + ranked * score).mean()
