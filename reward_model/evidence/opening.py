"""From settings to a referee."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from reward_model.evidence.cache import CachedReferee
from reward_model.evidence.model_referee import ModelReferee, RemoteReferee, VLMReferee
from reward_model.evidence.referee import NoisyReferee, OracleReferee, Referee
from reward_model.terminal.described import as_declared, check_settings, described, setting


@described
@dataclass(frozen=True)
class RefereeSettings:
    """The referee that is asked. The key of a server is read from the environment, never from settings."""

    kind: Literal["oracle", "local", "openai"] = setting("local")
    """The exact truth (oracle), a checkpoint in this process (local), or a model behind a server (openai)."""
    model: str | None = setting(None)
    """Folder, hub id, or the name under which a server serves the model."""
    base_url: str | None = setting(None)
    """Address of the server, such as http://referee:8000/v1; null: that of the environment."""
    device: str | None = setting(None)
    """Device of a local model, such as cuda:1; null: CUDA if there is any."""
    wording: Literal["paper", "compact"] | None = setting(None)
    """Wording of the question to a server: paper by default. A local model has its own."""
    batch_size: int = setting(32, least=1)
    """Questions asked at once. Changes memory and speed only."""
    flip: float = setting(0.0, least=0, most=1)
    """Probability that a grade is turned into its opposite: how much noise the reward bears."""
    bias: float = setting(0.0, least=-1, most=1)
    """Added to every grade."""
    seed: int = setting(0, least=0)
    """Seed of the flips."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.kind != "oracle" and not self.model:
            raise ValueError(f"referee: kind {self.kind!r} needs a model: a folder, a hub id, or a served name")
        if self.kind == "oracle" and self.model:
            raise ValueError(f"referee: the oracle is the exact truth and takes no model, not {self.model!r}")
        if self.base_url and self.kind != "openai":
            raise ValueError(f"referee: base_url belongs to kind 'openai', not {self.kind!r}")

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> RefereeSettings:
        """Settings from a mapping.

        Raises:
            ValueError: if one is unknown, or has a value that the rules refuse.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"referee: unknown setting(s) {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**as_declared(cls, data))


def open_referee(settings: RefereeSettings, cache: str | Path | None = None) -> Referee:
    """The referee, ready: a model is loaded, and has answered one question.

    Args:
        cache: file that keeps the answers of a model; None: memory alone.

    Raises:
        BackendError: if a model cannot be loaded or does not answer.
        ValueError: if there is no such device.
    """
    referee: Referee = OracleReferee()
    if settings.kind != "oracle":
        model = _model(settings)
        model.probe()
        referee = CachedReferee(model, cache, batch_size=settings.batch_size)
    if settings.flip or settings.bias:
        referee = NoisyReferee(referee, flip=settings.flip, bias=settings.bias, seed=settings.seed)
    return referee


def _model(settings: RefereeSettings) -> ModelReferee:
    assert settings.model is not None
    if settings.kind == "local":
        return VLMReferee(settings.model, batch_size=settings.batch_size, device=settings.device)
    return RemoteReferee(
        settings.model,
        wording=settings.wording or "paper",
        batch_size=settings.batch_size,
        base_url=settings.base_url,
    )
