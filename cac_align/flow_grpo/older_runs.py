"""Settings that a run wrote down before a setting existed, filled in with what they meant then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reward_model.setting_keys import without_keys
from reward_model.terminal.described import idle_settings

#: A setting that every file written since then has: a file without it is an older one.
_MARK = "nft_sigmas"
_CAC = ("cac", "cac_align:CaCReward")


def as_meant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint or a ``settings.yaml`` as a run of today would name them.

    Older runs wrote down keys of servers, which are left out here, and settings that their objective did not read,
    which have their defaults here, as have settings that came later. Still older ones read the judge before its
    reasoning where they named no readout, and drew the noise levels of nft uniformly.

    Example:
        >>> as_meant({"objective": "grpo", "rewards": ["cac"]})["rewards"]
        [{'reward': 'cac', 'options': {'readout': 'direct'}}]
    """
    from cac_align.flow_grpo.config import FlowGRPOConfig

    found: dict[str, Any] = without_keys(settings, keep_names=False)
    if _MARK not in found:
        found[_MARK] = "uniform" if found.get("objective") == "nft" else "schedule"
        if isinstance(found.get("rewards"), list):
            found["rewards"] = [_reward(entry) for entry in found["rewards"]]
    found = FlowGRPOConfig.completed(found)
    return found | idle_settings(FlowGRPOConfig, found)


def _reward(entry: object) -> object:
    named = {"reward": entry} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or named.get("reward") not in _CAC:
        return entry
    options = named.get("options")
    options = options if isinstance(options, Mapping) else {}
    return {**named, "options": {**options, "readout": options.get("readout", "direct")}}
