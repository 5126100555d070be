"""Requests to predict: prompts, tasks and applications, checked."""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_PROMPT_BYTES: Final = 999_999
"""UTF-8 bytes of the longest prompt that is read; a longer one is a mistake, not a prompt."""

# English text and code have about so many bytes per token.
_BYTES_PER_TOKEN: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """A batch of requests.

    Attributes:
        prompts: Their texts.
        tasks: What each asks for, such as `translation`, where that is known.
        apps: Application that each comes from, where that is known.
    """

    prompts: tuple[str, ...]
    tasks: tuple[str | None, ...]
    apps: tuple[str | None, ...]

    @classmethod
    def check(
        cls,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None,
        apps: Sequence[str | None] | None,
    ) -> Requests:
        """The requests of a call.

        Raises:
            IrouterError: Naming the first value that is not a text that can be read, or a list of another length.
        """
        if isinstance(prompts, str | bytes):
            raise IrouterError("`prompts` is one text, expected a list of texts")
        return cls(
            tuple(readable(prompt, f"prompt {row}") for row, prompt in enumerate(prompts)),
            _names("tasks", tasks, len(prompts)),
            _names("apps", apps, len(prompts)),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> Requests:
        """Some of the requests."""
        return Requests(self.prompts[rows], self.tasks[rows], self.apps[rows])

    def with_hints(self) -> list[str]:
        """The prompts, each with the paper's hint where the task is known (Jain et al., appendix A.4.2)."""
        return [
            prompt if task is None else f"{prompt}\nThis is a {task.replace('_', ' ')} task."
            for prompt, task in zip(self.prompts, self.tasks, strict=True)
        ]


def readable(prompt: object, where: str) -> str:
    """The prompt.

    Raises:
        IrouterError: For what is no text, is empty, is beyond all measure or cannot be written as UTF-8.
    """
    if not isinstance(prompt, str):
        raise IrouterError(f"{where} is {repr(prompt)[:40]}, expected a text")
    if not prompt or prompt.isspace():
        raise IrouterError(f"{where} is empty, expected a text")
    try:
        size = len(prompt.encode())
    except UnicodeEncodeError as error:
        found = prompt[error.start : error.start + 1]
        raise IrouterError(
            f"{where} has {found!r} at character {error.start}, expected text that can be written as UTF-8"
        ) from error
    if size > LONGEST_PROMPT_BYTES:
        raise IrouterError(f"{where} has {size:,} bytes, expected at most {LONGEST_PROMPT_BYTES:,}")
    return prompt


def _names(field: str, names: Sequence[str | None] | None, rows: int) -> tuple[str | None, ...]:
    if names is None:
        return (None,) * rows
    if isinstance(names, str) or len(names) != rows:
        found = f"the text {names!r}" if isinstance(names, str) else f"{len(names)} values"
        raise IrouterError(f"`{field}` is {found}, expected a list with one per prompt ({rows})")
    given: Sequence[object] = names
    for name in given:
        if name is not None and (not isinstance(name, str) or not name):
            raise IrouterError(f"`{field}` has {name!r}, expected names or None")
    return tuple(names)


def estimated_tokens(prompt: str) -> int:
    """About how many tokens a prompt has, at 4 bytes per token; at least 1."""
    return max(1, -(-len(prompt.encode()) // _BYTES_PER_TOKEN))


def application_number(app: str | None, task: str | None) -> int:
    """Number of an application or, where it has no name, of its task; 0 where neither is known."""
    name = app if app is not None else task
    return 0 if name is None else zlib.crc32(name.encode()) or 1
