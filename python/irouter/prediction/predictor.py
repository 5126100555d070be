"""What every predictor of output lengths does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irouter.prediction.distribution import LengthDistribution


@runtime_checkable
class LengthPredictor(Protocol):
    """Predicts how many tokens requests will produce. Safe to call from several threads."""

    def predict(
        self,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None = None,
        apps: Sequence[str | None] | None = None,
    ) -> LengthDistribution:
        """What is known of the output length of each request.

        Args:
            prompts: Texts, none of them empty.
            tasks: What each asks for, such as `translation`.
            apps: Application that each comes from.

        Raises:
            IrouterError: Naming the prompt that cannot be read, or a list of another length.
        """


@runtime_checkable
class LearningPredictor(LengthPredictor, Protocol):
    """A predictor that learns from each request that ends."""

    def observe(
        self,
        prompt: str,
        output_tokens: int,
        *,
        task: str | None = None,
        app: str | None = None,
        cut: bool = False,
    ) -> None:
        """Learns from a request that has ended.

        Args:
            prompt: Its text.
            output_tokens: Tokens that it produced, at least 1.
            task: What it asked for.
            app: Application that it came from.
            cut: Whether a limit ended it, so that its length is at least this.

        Raises:
            IrouterError: For an output of 0 tokens.
        """
