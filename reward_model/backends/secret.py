"""A key that shows itself to nobody: not in a repr, a log, a pickle, or the locals of a traceback."""

from __future__ import annotations

import os

_SHORTEST = 8


class Secret:
    """An API key. Whoever takes one as a plain string wraps it first thing, so that no frame keeps it bare.

    A pickle does not hold the key: the copy reads ``$OPENAI_API_KEY`` of its own process.

    Args:
        value: the key, or another secret; None reads ``$OPENAI_API_KEY``.

    Raises:
        ValueError: if the key holds characters that no key has. The message does not show it.
    """

    def __init__(self, value: str | Secret | None = None) -> None:
        value = value.reveal() if isinstance(value, Secret) else value
        value = (value or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            value = ""  # the frame of this very traceback
            raise ValueError(
                "the API key holds characters no key has (spaces, line breaks or non-ASCII); pass the bare key"
            )
        self._reveal = lambda: value

    @classmethod
    def of(cls, value: str) -> Secret:
        """A holder of anything: a password or a whole header may have spaces. Whoever takes it for an API key checks
        it by ``Secret(holder)``.
        """
        holder = cls.__new__(cls)
        holder._reveal = lambda: value
        return holder

    def reveal(self) -> str:
        """The key; empty if there is none."""
        return self._reveal()

    def hide(self, text: str) -> str:
        """The text with the key blotted out: servers quote it back. What is shorter than eight characters (``EMPTY``,
        ``none``) is not a secret, and may be a word of the answer.
        """
        key = self.reveal()
        return text.replace(key, "[key]") if len(key) >= _SHORTEST else text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __deepcopy__(self, memo: object) -> Secret:
        return self  # stays in this process

    def __reduce__(self) -> tuple[type[Secret], tuple[()]]:
        return Secret, ()
