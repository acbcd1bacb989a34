"""Value of a second look, in numbers: what one and two turns can reach on videos that the scan cannot decide, what
Equation 8 makes of the scan's suspicions, and the doubt from which a suspicion pays (docs/second_look.md).
"""

from __future__ import annotations

from math import comb, sqrt
from typing import NamedTuple

#: Divisors of Equation 8, as ``scale_rewards`` of stage 3 names them.
SCALES = ("group", "batch", "none")


class Rung(NamedTuple):
    """A judge on the ladder: its accuracy, and the share of all videos that get a second turn."""

    name: str
    accuracy: float
    second_turns: float


class Stakes(NamedTuple):
    """Rewards (Equation 6) of the four ends that a video can come to, where turn two decides rightly.

    ``found``: abnormal, flagged and confirmed; ``missed``: abnormal, called normal by the scan; ``passed``: normal,
    and the scan says so; ``rescued``: normal, flagged by the scan and cleared by turn two.
    """

    found: float = 6.0
    missed: float = -2.0
    passed: float = 0.0
    rescued: float = -1.0

    @classmethod
    def of(cls, rescued_normal: float, *, weight_status: float = 2.0, earned: float = 6.0) -> Stakes:
        """Stakes under settings of stage 3: ``earned`` is what the overlaps of a found anomaly are worth together, at
        most the sum of their weights (9).
        """
        return cls(earned, -weight_status, 0.0, weight_status * rescued_normal)

    @property
    def gain(self) -> float:
        """Gain of flagging an abnormal video."""
        return self.found - self.missed

    @property
    def price(self) -> float:
        """Price of flagging a normal one."""
        return self.passed - self.rescued


def two_turn_accuracy(undecided: float, flagged: float, skill: float = 1.0) -> float:
    """Accuracy of a judge of two turns on videos of which some look the same to its scan, normal or abnormal.

    Args:
        undecided: share of the videos whose scan is the same for a normal and an abnormal story, half of them
            abnormal; all others are judged rightly.
        flagged: share of those that the scan flags.
        skill: recall plus specificity of turn two on them, minus 1: 1 decides all rightly, 0 guesses.

    Returns:
        ``1 - a / 2 + a / 2 * q * skill``; with ``flagged=0`` the best that one turn can do.

    Raises:
        ValueError: if a share is not between 0 and 1, or the skill not between -1 and 1.

    Example:
        >>> two_turn_accuracy(0.5, 0.0), two_turn_accuracy(0.5, 0.5), two_turn_accuracy(0.5, 1.0)
        (0.75, 0.875, 1.0)
    """
    _check(undecided=undecided, flagged=flagged)
    if not -1 <= skill <= 1:
        raise ValueError(f"skill={skill} must be between -1 and 1")
    return 1 - undecided / 2 + undecided / 2 * flagged * skill


def ladder(undecided: float, skill: float = 1.0) -> list[Rung]:
    """The judges of docs/second_look.md with their accuracies; decided videos are half abnormal, and all of those get
    a second turn.
    """
    sure = (1 - undecided) / 2
    scans = (
        ("two turns, scan trained on truth", 0.5),
        ("two turns, scan that flags all it cannot decide", 1.0),
    )
    one = Rung("one turn, best possible", two_turn_accuracy(undecided, 0.0), 0.0)
    return [one, *(Rung(name, two_turn_accuracy(undecided, q, skill), sure + undecided * q) for name, q in scans)]


def flagged_advantage(group: int, flagged: int) -> float:
    """Sum of the advantages of Equation 8 over the flagged rollouts of a group, if flagging is rewarded; if it is
    punished, its negative. Neither reward is in it.

    With the sample deviation (ddof 1) that stage 3 divides by: ``sqrt(k (G - k)) * sqrt((G - 1) / G)``. 0 where all or
    none are flagged.

    Example:
        >>> round(flagged_advantage(8, 3), 4)
        3.6228
    """
    if not 0 <= flagged <= group or group < 2:
        raise ValueError(f"flagged={flagged} must be between 0 and group={group}, which must be at least 2")
    return sqrt(flagged * (group - flagged) * (group - 1) / group)


def expected_push(
    flagged: float, stakes: Stakes, *, scale_rewards: str = "group", group: int = 8, doubt: float = 0.5
) -> float:
    """Expected gradient of the objective of stage 3 on the logit with which the scan flags, for videos whose scans it
    cannot tell apart and whose turn two decides rightly. Above 0 training makes the scan flag more.

    Of a group it is the sum of the flagged rollouts' advantages by the group's size, since the advantages sum to 0.

    Args:
        flagged: probability with which the scan flags.
        stakes: rewards of the four ends.
        scale_rewards: divisor of Equation 8: the deviation of the ``group``, of a large ``batch``, or ``none``.
        group: rollouts of each video, G.
        doubt: share of these videos that are abnormal.

    Raises:
        ValueError: if a share is not between 0 and 1, or the divisor is unknown.
    """
    _check(flagged=flagged, doubt=doubt)
    if scale_rewards not in SCALES:
        raise ValueError(f"scale_rewards={scale_rewards!r} must be one of {', '.join(SCALES)}")
    if scale_rewards == "group":
        size = sum(_binomial(group, k, flagged) * flagged_advantage(group, k) for k in range(group + 1)) / group
        return size * (doubt * _sign(stakes.gain) - (1 - doubt) * _sign(stakes.price))
    push = (group - 1) / group * flagged * (1 - flagged) * (doubt * stakes.gain - (1 - doubt) * stakes.price)
    if scale_rewards == "none" or push == 0:
        return push
    return push / _deviation(flagged, stakes, doubt)


def least_doubt(stakes: Stakes, scale_rewards: str = "batch") -> float:
    """Probability of "abnormal" above which training teaches the scan to flag.

    With the deviation of the batch or none, ``price / (gain + price)``. With that of the group one half, whatever a
    catch is worth and a cleared suspicion costs; 0 where it costs exactly nothing.

    Example:
        >>> round(1 / least_doubt(Stakes.of(-1 / 2)), 6), round(1 / least_doubt(Stakes.of(-1 / 8)), 6)
        (9.0, 33.0)
    """
    if stakes.price < 0 or stakes.gain <= 0:
        raise ValueError(f"{stakes} must reward a catch (found above missed) and no false alarm (rescued above passed)")
    if scale_rewards == "group":
        return 0.5 if stakes.price else 0.0
    return stakes.price / (stakes.gain + stakes.price)


def least_confidence(stakes: Stakes, scale_rewards: str = "batch") -> float:
    """Probability of "abnormal" above which training teaches turn two to confirm what the scan flagged.

    A false alarm earns what a miss earns, the punished status. With the deviation of the batch or none, turn two should
    confirm above ``(rescued - missed) / (found - missed + rescued - missed)``: what a found anomaly earns in overlaps
    has no counterpart on the normal side. With that of the group one half: the two ends of a video are as far apart as
    those of any other.

    Example:
        >>> round(1 / least_confidence(Stakes.of(-1 / 2)), 6), least_confidence(Stakes.of(-1 / 2), "group")
        (9.0, 0.5)
    """
    cleared = stakes.rescued - stakes.missed
    if cleared <= 0 or stakes.gain <= 0:
        raise ValueError(f"{stakes} must reward a catch (found above missed) and a rescue (rescued above missed)")
    return 0.5 if scale_rewards == "group" else cleared / (stakes.gain + cleared)


def _deviation(flagged: float, stakes: Stakes, doubt: float) -> float:
    """Standard deviation of the rewards of a large batch."""
    shares = (doubt * flagged, doubt * (1 - flagged), (1 - doubt) * (1 - flagged), (1 - doubt) * flagged)
    mean = sum(p * r for p, r in zip(shares, stakes, strict=True))
    return sqrt(sum(p * (r - mean) ** 2 for p, r in zip(shares, stakes, strict=True)))


def _binomial(num: int, hits: int, share: float) -> float:
    return comb(num, hits) * share**hits * (1 - share) ** (num - hits)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1")
