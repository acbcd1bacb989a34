"""Where a reward's model lives and how it is reached: what all rewards with a model behind them share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_model.secret import Secret
from reward_model.shipped import located, shipped_folder

__all__ = [
    "BACKENDS",
    "BackendSource",
    "announce_demo",
    "check_backend",
    "check_on_error",
    "check_several",
    "hidden",
    "located",
    "shipped_folder",
]

BACKENDS = ("local", "openai", "replay")
#: Programs and services that people name as the backend.
_SERVERS = ("vllm", "sglang", "llamacpp", "llama.cpp", "ollama", "lmdeploy", "tgi", "litellm", "lmstudio", "openrouter")


class BackendSource:
    """A model's name, the kind of backend that runs it, and the backend's options. Pickles without the key: a copy
    reads ``$OPENAI_API_KEY`` where it arrives.

    Args:
        model: folder or hub id, the name a server serves it under, or a recording; None with a backend object.
        backend: ``"local"``, ``"openai"``, ``"replay"``, or a backend object.
        base_url, api_key: of the server.
        revision, device, dtype: of the local model.
        options: more for the backend; they win over the above.

    Raises:
        ValueError: an unknown backend, or an address or key for one that has none.
    """

    def __init__(
        self,
        model: str | None,
        backend: Any,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        api_key = hidden(api_key) or hidden(options.pop("api_key", None))
        check_backend(backend, base_url, api_key)
        own: dict[str, Any] = {}
        if backend == "local":
            own = {"revision": revision, "device": device, "dtype": dtype}
        elif backend == "openai":
            own = {"base_url": base_url}
        self.model, self.backend, self.options = model, backend, {**own, **options}
        self._api_key = api_key

    @property
    def name(self) -> str:
        """The model's short name, for reports."""
        return Path(self.model).name if self.model is not None else str(getattr(self.backend, "name", "judge"))

    def open(self) -> Any:
        """The backend itself.

        Raises:
            BackendError: it cannot be loaded.
        """
        if not isinstance(self.backend, str):
            return self.backend
        assert self.model is not None
        if self.backend == "local":
            from reward_model.backends.local import LocalBackend

            return LocalBackend(self.model, **self.options)
        if self.backend == "openai":
            from reward_model.backends.openai import OpenAIBackend

            return OpenAIBackend(self.model, api_key=self._api_key, **self.options)
        from reward_model.backends.replay import ReplayBackend

        return ReplayBackend(self.model, **self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_api_key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _api_key=None)


def hidden(api_key: str | Secret | None) -> Secret | None:
    """A key behind a holder that shows it to nobody; None where none was given. Rewards call it before anything else,
    so that no frame of a traceback keeps the key bare.
    """
    return None if api_key is None else Secret(api_key)


def check_backend(backend: Any, base_url: str | None = None, api_key: str | Secret | None = None) -> None:
    """Raises ValueError for an unknown backend, and for an address or key that its kind does not take."""
    if isinstance(backend, str) and backend not in BACKENDS:
        serves = backend.lower().replace("-", "").replace("_", "") in _SERVERS
        remedy = f"; {backend} serves the openai protocol: backend='openai', base_url='http://host:8000/v1'"
        raise ValueError(
            f"backend={backend!r} must be one of {', '.join(BACKENDS)}, or a backend object{remedy if serves else ''}"
        )
    if isinstance(backend, str) and backend != "openai" and (base_url or api_key):
        raise ValueError(f"base_url and api_key belong to backend='openai', not {backend!r}")


def check_on_error(on_error: str) -> None:
    """Raises ValueError unless ``on_error`` is ``"none"`` or ``"raise"``."""
    if on_error not in ("none", "raise"):
        raise ValueError(f"on_error={on_error!r} must be 'none' or 'raise'")


def check_several(videos: Sequence[Any], remedy: str = "") -> None:
    """Raises ValueError for a single video where a list of them is needed; ``remedy`` ends the message."""
    if isinstance(videos, str | os.PathLike) or getattr(videos, "ndim", 5) == 4:
        raise ValueError(f"videos must be a list of videos, got a single one; pass [video]{remedy}")


def announce_demo(model: str, folder: Path | None, knows: str) -> None:
    """Warns that ``model`` is the demo-scale one in ``folder``, if it is; ``knows`` says what it can do and what to
    pass instead. Each reward calls it through a cached function of its own, and thus once per process.
    """
    if folder is not None and Path(model).resolve() == folder.resolve():
        warnings.warn(f"the embedded mini judge is demo-scale: {knows}", stacklevel=5)
