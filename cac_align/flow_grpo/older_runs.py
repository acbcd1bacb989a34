"""Settings that a run wrote down before a setting existed, filled in with what they meant then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cac_align.flow_grpo.anchors import AnchorSettings
from reward_model.setting_keys import without_keys

#: A setting that every file written since then has: a file without it is an older one.
_MARK = "nft_sigmas"
_CAC = ("cac", "cac_align:CaCReward")


def as_meant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint or a ``settings.yaml`` as a run of today would name them.

    Older runs wrote down keys of servers, which are left out here. Still older ones read the judge before its reasoning
    where they named no readout, and drew the noise levels of nft uniformly.

    Example:
        >>> as_meant({"objective": "grpo", "rewards": ["cac"]})["rewards"]
        [{'reward': 'cac', 'options': {'readout': 'direct'}}]
    """
    found: dict[str, Any] = {
        **{f.name: f.default for f in fields(AnchorSettings)},  # each default is what was done without the setting
        **without_keys(settings, keep_names=False),
    }
    if _MARK in found:
        return found
    found[_MARK] = "uniform" if found.get("objective") == "nft" else "schedule"
    if isinstance(found.get("rewards"), list):
        found["rewards"] = [_reward(entry) for entry in found["rewards"]]
    return found


def _reward(entry: object) -> object:
    named = {"reward": entry} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or named.get("reward") not in _CAC:
        return entry
    options = named.get("options")
    options = options if isinstance(options, Mapping) else {}
    return {**named, "options": {**options, "readout": options.get("readout", "direct")}}
