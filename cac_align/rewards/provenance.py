"""What a reward is, for the files its scores are written to: model, revision and settings, and never a key."""

from __future__ import annotations

from typing import Any

from cac_align.rewards.base import reward_name
from reward_model.setting_keys import without_keys

#: Attributes of a reward, or of its source, that decide its scores.
_TOLD = ("model", "protocol", "wording", "readout", "revision")
_OPTIONS = ("revision", "dtype", "base_url")


def describe_reward(reward: Any) -> dict[str, Any]:
    """JSON-safe values that say which reward this is; of a composite, its members as well.

    Example:
        >>> describe_reward(lambda videos, prompts=None, *, fps, **_: [0.5])["reward"]
        '<lambda>'
    """
    found: dict[str, Any] = {"reward": reward_name(reward)}
    described = getattr(reward, "describe", None)
    if callable(described):
        found |= without_keys(dict(described()))
    found |= {name: value for name in _TOLD if isinstance(value := getattr(reward, name, None), str)}
    if (backend := getattr(reward, "backend", None)) is not None:
        found["backend"] = (
            backend if isinstance(backend, str) else str(getattr(backend, "name", type(backend).__name__))
        )
    options = getattr(getattr(reward, "_source", None), "options", None) or {}
    told = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
    found |= {name: str(value) for name, value in without_keys(told).items()}
    judge = getattr(reward, "_judge_options", None)
    if isinstance(judge, dict):
        found["settings"] = {k: list(v) if isinstance(v, tuple) else v for k, v in judge.items()}
    rewards, names = getattr(reward, "rewards", None), getattr(reward, "names", None)
    if isinstance(rewards, list | tuple) and isinstance(names, list | tuple):
        found["normalise"] = getattr(reward, "normalise", None)
        weights = getattr(reward, "weights", [None] * len(rewards))
        found["members"] = {
            name: {"weight": weight, **describe_reward(member)}
            for name, member, weight in zip(names, rewards, weights, strict=True)
        }
    return found
