"""Source of a reward's model: location, backend and options, shared by all rewards with a model behind them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from reward_model.backends.base import Backend
from reward_model.backends.devices import check_precision
from reward_model.backends.secret import Secret
from reward_model.shipped import located, shipped_folder

if TYPE_CHECKING:
    import torch
    from transformers.utils.quantization_config import QuantizationConfigMixin

__all__ = [
    "BACKENDS",
    "BackendSource",
    "announce_demo",
    "announce_demo_scale",
    "check_backend",
    "check_on_error",
    "hidden",
    "local_options",
    "located",
    "open_backend",
    "outside",
    "shipped_folder",
]

BACKENDS = ("local", "openai", "replay")
#: Programs and services that people name as the backend.
_SERVERS = ("vllm", "sglang", "llamacpp", "llama.cpp", "ollama", "lmdeploy", "tgi", "litellm", "lmstudio", "openrouter")
LOCAL_OPTIONS = ("revision", "device", "dtype", "device_map", "attn_implementation", "quantization_config")


class BackendSource:
    """A model's name, the kind of backend that runs it, and the backend's options. Pickles without the key: a copy
    reads ``$OPENAI_API_KEY`` where it arrives.

    Args:
        model: folder or hub id, the name a server serves it under, or a recording; None with a backend object.
        backend: ``"local"``, ``"openai"``, ``"replay"``, or a backend object.
        base_url, api_key: address and key of the server.
        revision, device, dtype: revision, device and precision of the local model; ``torch_dtype`` is another name for
            ``dtype``.
        device_map, quantization_config, attn_implementation: options of the local model, handed to ``from_pretrained``.
        options: more for the backend; they win over the above.

    Raises:
        ValueError: an unknown backend, an address or key for one that has none, an option that the backend cannot
            take, or no precision of that name.
    """

    def __init__(
        self,
        model: str | None,
        backend: str | Backend,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        revision: str | None = None,
        device: str | int | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, object] | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        attn_implementation: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        api_key = hidden(api_key) or hidden(options.pop("api_key", None))
        check_backend(backend, base_url, api_key)
        own: dict[str, Any] = {}
        if backend == "local":
            own = {"revision": revision, "device": device}
        elif backend == "openai":
            own = {"base_url": base_url}
        local = {
            "device_map": device_map,
            "quantization_config": quantization_config,
            "attn_implementation": attn_implementation,
        }
        chosen = local_options(backend, dtype, torch_dtype, options, **local)
        self.model, self.backend, self.options = model, backend, {**own, **chosen}
        self._api_key = api_key

    @property
    def name(self) -> str:
        """The model's short name, for reports."""
        return Path(self.model).name if self.model is not None else str(getattr(self.backend, "name", "judge"))

    def open(self) -> Backend:
        """The backend itself.

        Raises:
            BackendError: if it cannot be loaded.
        """
        if not isinstance(self.backend, str):
            return self.backend
        assert self.model is not None
        options = {**self.options, "api_key": self._api_key} if self.backend == "openai" else self.options
        return open_backend(self.model, self.backend, options)

    def check(self) -> None:
        """Looks for what would keep :meth:`open` from working, without loading anything.

        Raises:
            BackendError: if there is no such model or recording, or it is of another kind.
            ValueError: if there is no such device or precision.
        """
        if self.backend == "local":
            from reward_model.backends.checkpoint import check_checkpoint
            from reward_model.backends.devices import torch_device

            assert self.model is not None
            check_checkpoint(self.model, self.options.get("revision"))
            if self.options.get("device_map") is None:
                torch_device(self.options.get("device"))
        elif self.backend == "replay" and not Path(str(self.model)).is_file():
            self.open()  # says what is missing

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_api_key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _api_key=None)


def open_backend(model: str, backend: str, options: Mapping[str, Any]) -> Backend:
    """The backend of one of :data:`BACKENDS`.

    Args:
        model: folder or hub id, the name a server serves it under, or a recording.
        options: options of the backend's class.

    Raises:
        ValueError: if there is no such backend.
        BackendError: if it cannot be loaded.
    """
    check_backend(backend)
    if backend == "local":
        from reward_model.backends.local import LocalBackend

        return LocalBackend(model, **options)
    if backend == "openai":
        from reward_model.backends.openai import OpenAIBackend

        return OpenAIBackend(model, **options)
    from reward_model.backends.replay import ReplayBackend

    return ReplayBackend(model, **options)


def hidden(api_key: str | Secret | None) -> Secret | None:
    """A key behind a holder that shows it to nobody; None if none was given. Rewards call it before anything else,
    so that no frame of a traceback keeps the key bare.
    """
    return None if api_key is None else Secret(api_key)


def check_backend(backend: object, base_url: str | None = None, api_key: str | Secret | None = None) -> None:
    """Raises ValueError for an unknown backend, and for an address or key that its kind does not take."""
    if isinstance(backend, str) and backend not in BACKENDS:
        serves = backend.lower().replace("-", "").replace("_", "") in _SERVERS
        remedy = f"; {backend} serves the openai protocol: backend='openai', base_url='http://host:8000/v1'"
        raise ValueError(
            f"backend={backend!r} must be one of {', '.join(BACKENDS)}, or a backend object{remedy if serves else ''}"
        )
    if isinstance(backend, str) and backend != "openai" and (base_url or api_key):
        raise ValueError(f"base_url and api_key belong to backend='openai', not {backend!r}")


def local_options(
    backend: object,
    dtype: torch.dtype | str | None,
    torch_dtype: torch.dtype | str | None,
    options: dict[str, Any] | None,
    **more: object,
) -> dict[str, Any]:
    """The options of a backend with those that only a model in this process knows.

    Args:
        dtype, torch_dtype: two names of one thing; None: not given.
        options: the user's own, which win.
        **more: ``device_map``, ``quantization_config``, ``attn_implementation``; None: not given.

    Raises:
        ValueError: for an option the backend cannot take, or an unknown precision.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ValueError(f"dtype={dtype!r} and torch_dtype={torch_dtype!r} are two names of one setting; give one")
    precision = check_precision(torch_dtype if dtype is None else dtype)
    own = {name: value for name, value in more.items() if value is not None}
    if own and backend != "local":
        raise ValueError(f"{', '.join(own)}: these belong to backend='local'; set them where the model is served")
    if backend == "local":
        own = {"dtype": precision, **own}
        unknown = sorted(set(options or ()) - set(LOCAL_OPTIONS))
        if unknown:
            raise ValueError(
                f"backend_options of backend='local' hold {', '.join(unknown)}; known: {', '.join(LOCAL_OPTIONS)}"
            )
    return {**own, **(options or {})}


def check_on_error(on_error: str) -> None:
    """Raises ValueError unless ``on_error`` is ``"none"`` or ``"raise"``."""
    if on_error not in ("none", "raise"):
        raise ValueError(f"on_error={on_error!r} must be 'none' or 'raise'")


def announce_demo(model: str, folder: Path | None, knows: str) -> None:
    """Warns that ``model`` is the demo-scale one in ``folder``, if it is; ``knows`` says what it can do and what to
    pass instead. Each reward calls it through its own cached function, and thus once per process.
    """
    if folder is not None and Path(model).resolve() == folder.resolve():
        warnings.warn(f"the embedded mini judge is demo-scale: {knows}", stacklevel=outside())


def announce_demo_scale(model: str, demo_scale: bool) -> None:
    """Warns once per process of a checkpoint that is marked ``demo_scale``, or was copied or trained from one; the
    shipped ones have their own warning (:func:`announce_demo`).
    """
    shipped = {
        folder.resolve() for name in ("cac-mini", "unified-mini") if (folder := shipped_folder(name)) is not None
    }
    if demo_scale and Path(model).resolve() not in shipped:
        _warn_of_demo_scale(model)


@cache
def _warn_of_demo_scale(model: str) -> None:
    warnings.warn(
        f"{model} is demo-scale: its judge.json says demo_scale, for it was copied or trained from a judge that knows "
        "the procedural world only. Its verdicts on real footage mean little; train from a full-size checkpoint "
        "(docs/train_a_judge.md)",
        stacklevel=outside(),
    )


def outside() -> int:
    """The ``stacklevel``, for a caller of this function, of the first frame outside these packages."""
    level = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cac_align", "reward_model"):
        level, frame = level + 1, frame.f_back
    return level + 1
