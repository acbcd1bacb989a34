"""A fixed scale for rewards of different kinds: where they put a bank of videos of the base model, measured once.

For every reward the median m of its scores of the bank and their median absolute deviation MAD. A score r of a later
video is then z = (r - m) / (1.4826 MAD) robust standard deviations from the base model, clipped at 5, and the mean of
several rewards is a mean of like with like. Nothing of it is estimated again from a model in training: unlike a z-score
within a group, it means the same at every step. The paper's "mean of normalised scores" (section 3.4) names no
normalisation; this is ours.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from cac_align.rewards.base import describe_reward
from reward_model.digests import json_digest, model_fingerprint
from reward_model.files import write_json

VERSION = 1
#: The standard deviation of a normal distribution over its median absolute deviation.
NORMAL = 1.4826
#: Robust standard deviations beyond which a score counts as if it were there: one saturated reward cannot outweigh all.
CLIP = 5.0
#: A smaller spread is rounding: more than half of the bank has one and the same score.
MIN_MAD = 1e-6
#: Scores that the median and the deviation of a reward need at the least.
MIN_VIDEOS = 8
#: What describes a reward but does not decide its scores.
_PASSING = ("base_url", "backend", "dtype", "batch_size", "all_readouts")


class CalibrationError(ValueError):
    """A calibration is missing, cannot be read, or is that of other rewards or other videos."""


@dataclass(frozen=True)
class Scale:
    """The scale of one reward.

    Attributes:
        median, mad: of its scores of the bank, in its own unit.
        num_videos: scores that they were measured on.
        clipped: share of the bank beyond :data:`CLIP`.
        reward: identity of the reward, see :func:`reward_identity`.
    """

    median: float
    mad: float
    num_videos: int
    clipped: float = 0.0
    reward: Mapping[str, Any] = field(default_factory=dict)

    def standardise(self, score: float) -> float:
        """Robust standard deviations above the base model's median; not clipped.

        >>> round(Scale(0.5, 0.1, 64).standardise(0.64826), 6)
        1.0
        """
        return (score - self.median) / (NORMAL * self.mad)

    def place(self, score: float) -> float:
        """:meth:`standardise` clipped at 5 and brought to [0, 1]: 0.5 is the median, a robust deviation is a tenth.

        >>> Scale(0.5, 0.1, 64).place(0.5), round(Scale(0.5, 0.1, 64).place(0.64826), 6), Scale(0.5, 0.1, 64).place(-9)
        (0.5, 0.6, 0.0)
        """
        return 0.5 + max(-CLIP, min(CLIP, self.standardise(score))) / (2 * CLIP)


def measure_scale(scores: Sequence[float | None], name: str, reward: Mapping[str, Any] | None = None) -> Scale:
    """The scale of a reward by its scores of the bank; None, which is a video it could not judge, does not count.

    Raises:
        CalibrationError: if fewer than 8 videos have a score, or more than half of them one and the same.

    >>> measure_scale([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "mine").mad
    2.0
    """
    known = [float(score) for score in scores if score is not None]
    if len(known) < MIN_VIDEOS:
        raise CalibrationError(
            f"reward {name!r} scored {len(known)} of {len(scores)} videos of the bank; a scale needs {MIN_VIDEOS} or "
            "more: look at its reasons, or draw a larger bank (--num-videos)"
        )
    centre = median(known)
    mad = median(abs(score - centre) for score in known)
    if mad < MIN_MAD:
        raise CalibrationError(
            f"reward {name!r} gives half of the bank or more the score {centre:.6g}: its median absolute deviation is "
            f"{mad:.2g}, which is not a scale. Take a readout that does not saturate (log_odds), or a larger bank"
        )
    scale = Scale(centre, mad, len(known), reward=dict(reward or {}))
    clipped = sum(abs(scale.standardise(score)) > CLIP for score in known) / len(known)
    return Scale(centre, mad, len(known), clipped, scale.reward)


@dataclass(frozen=True)
class Calibration:
    """Scales of rewards by name, and the bank they were measured on.

    Attributes:
        scales: a scale for each reward.
        bank: the videos: model, sizes, sampling, and digests of prompts and seeds.
    """

    scales: Mapping[str, Scale]
    bank: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """16 hex digits that change with any number in it."""
        return json_digest([{name: asdict(scale) for name, scale in self.scales.items()}, dict(self.bank)])[:16]

    def save(self, path: str | Path) -> Path:
        """Writes the JSON file that :meth:`load` reads."""
        scales = {name: asdict(scale) for name, scale in self.scales.items()}
        return write_json(path, {"version": VERSION, "rewards": scales, "bank": dict(self.bank), "digest": self.digest})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """The calibration of a file.

        Raises:
            CalibrationError: if there is no such file, it is not a calibration, or somebody changed it.
        """
        path = Path(path)
        if not path.is_file():
            raise CalibrationError(f"there is no calibration {str(path)!r}")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise CalibrationError(
                    f"{str(path)!r} is a calibration of version {data['version']!r}, known here is {VERSION}"
                )
            found = cls({name: _scale(entry) for name, entry in data["rewards"].items()}, dict(data["bank"]))
            told = data["digest"]
        except CalibrationError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(f"{str(path)!r} is not a calibration: {error or type(error).__name__}") from error
        if told != found.digest:
            raise CalibrationError(f"{str(path)!r} was changed after it was measured: its digest does not fit")
        return found

    def check(self, rewards: Mapping[str, object]) -> None:
        """Looks whether these rewards are those it was measured with.

        Args:
            rewards: rewards that count, by name.

        Raises:
            CalibrationError: if one has no scale, or the scale of another model or of other settings.
        """
        for name, reward in rewards.items():
            if name not in self.scales:
                raise CalibrationError(
                    f"the calibration has no scale for reward {name!r}, only for {', '.join(sorted(self.scales))}"
                )
            was, now = dict(self.scales[name].reward), reward_identity(reward)
            if changed := difference(was, now):
                raise CalibrationError(f"the calibration of reward {name!r} is that of another one: {changed}")


def _scale(entry: Mapping[str, Any]) -> Scale:
    scale = Scale(**entry)
    if not (math.isfinite(scale.median) and math.isfinite(scale.mad) and scale.mad >= MIN_MAD):
        raise ValueError(f"median {scale.median!r} and MAD {scale.mad!r} are not a scale")
    return scale


def reward_identity(reward: object) -> dict[str, Any]:
    """Values that decide the scores of a reward, for files: a model that is a folder counts by its content, wherever it
    lies; the address of a server does not count.
    """
    told = describe_reward(reward)
    if isinstance(told.get("settings"), Mapping):
        told |= told.pop("settings")
    told = {name: value for name, value in told.items() if name not in _PASSING and value is not None}
    model = told.get("model")
    if isinstance(model, str):
        told.pop("reward")  # its name, which is the folder's
        if Path(model).is_dir():
            told["model"] = f"folder {model_fingerprint(model)[:16]}"
    found: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return found


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The entries in which two mappings differ, in words; ``""`` where they are equal."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return "; ".join(f"{name} was {was.get(name)!r} and is now {now.get(name)!r}" for name in names)
