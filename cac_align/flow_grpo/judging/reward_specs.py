"""The rewards of a settings file: names and weights become one reward object. No reward is known here but by name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reward_model.setting_keys import blotted, hidden_keys, revealed

if TYPE_CHECKING:
    from cac_align.rewards.base import Reward
    from cac_align.rewards.calibration import Calibration
    from cac_align.rewards.composite import CompositeReward

#: Short names of this package's rewards.
SHORT = {
    "cac": "cac_align:CaCReward",
    "unified": "cac_align:UnifiedReward",
    "motion": "cac_align:MotionReward",
    "remote": "cac_align:RemoteReward",
}
KEYS = ("reward", "weight", "name", "options")


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a run: ``module:name`` of a class (``options`` are its arguments) or of a function. Keys among the
    options are hidden (:mod:`reward_model.setting_keys`).
    """

    target: str
    name: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def maker(self) -> Callable[..., Any]:
        """The class or function itself; nothing is made of it.

        Raises:
            ValueError: if the module or the name in it does not exist.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"reward {self.name!r}: {self.target!r} cannot be imported ({error}); give module:callable"
            ) from error

    def build(self) -> Reward:
        """The reward.

        Raises:
            ValueError: if the module or the name in it does not exist, it refuses the options, or a variable that
                stands for a key is not set.
        """
        maker = self.maker()
        if not isinstance(maker, type):
            if self.options:
                raise ValueError(f"reward {self.name!r}: {self.target!r} is a function and takes no options")
            return maker
        try:
            options = revealed(self.options, bare=self.target not in SHORT.values())  # ours take keys in their holders
        except ValueError as error:
            raise ValueError(f"reward {self.name!r}: {error}") from None
        try:
            return maker(**options)
        except TypeError as error:
            raise ValueError(f"reward {self.name!r}: {self.target!r} refuses its options: {error}") from error


def read_specs(entries: Any) -> list[RewardSpec]:
    """The list ``rewards`` of a settings file, checked without loading anything.

    Raises:
        ValueError: if it is empty, or an entry is malformed.

    Example:
        >>> [(s.target, s.weight) for s in read_specs(["cac", {"reward": "unified", "weight": 0.5}])]
        [('cac_align:CaCReward', 1.0), ('cac_align:UnifiedReward', 0.5)]
    """
    entries = hidden_keys(entries)
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        raise ValueError(f"rewards={blotted(repr(entries))} must be a list of at least one reward, such as [cac]")
    specs = [_read(entry) for entry in entries]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rewards are named {name!r}; give each its own name")
    return specs


def build_reward(
    entries: object, *, on_failure: str = "none", calibration: Calibration | str | None = None
) -> CompositeReward:
    """The reward of a run: the weighted mean of all, each kept as a part under its name.

    Args:
        entries: see :func:`read_specs`.
        on_failure, calibration: of :class:`cac_align.rewards.composite.CompositeReward`.

    Raises:
        ValueError: if an entry is malformed, or a reward cannot be made.
        CalibrationError: if the calibration is that of other rewards.
    """
    from cac_align.rewards.composite import CompositeReward

    specs = read_specs(entries)
    return CompositeReward(
        {spec.name: spec.build() for spec in specs},
        weights={spec.name: spec.weight for spec in specs},
        on_failure=on_failure,  # type: ignore[arg-type]
        calibration=calibration,
    )


def _read(entry: object) -> RewardSpec:
    if isinstance(entry, str):
        entry = {"reward": entry}
    if not isinstance(entry, Mapping) or "reward" not in entry or set(entry) - set(KEYS):
        raise ValueError(
            f"reward {blotted(repr(entry))} must be a name, or a mapping of {', '.join(KEYS)} with at least 'reward'"
        )
    short = str(entry["reward"])
    target = SHORT.get(short, short)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(f"reward {short!r} is unknown; choose {', '.join(SHORT)}, or give module:callable")
    weight, options = entry.get("weight", 1.0), entry.get("options") or {}
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"reward {short!r}: weight={weight!r} must be a finite number of 0 or more")
    if not isinstance(options, Mapping):
        raise ValueError(f"reward {short!r}: options must be a mapping, got {type(options).__name__}")
    return RewardSpec(target, str(entry.get("name") or short.rpartition(":")[2]), float(weight), dict(options))
