"""The score of an answer's evidence (R_SER) from a referee's opinions: pure functions of numbers.

The idea is that of SER, *Semantic Evidence Reward* (arXiv 2606.24726), of which the abstract alone is public: a referee
checks each claim for relevance and for localisation, and a temporal penalty is added. The formulas are this project's::

    R_SER = (1/J) sum_j rel_j (1/2 + 1/2 loc_j) (1 - lambda_t p_j) - lambda_l l - lambda_x max(0, J_raw - J) / J_raw

Relevance gates: a tight box around the wrong thing earns nothing. Without a claim the score is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reward_model.terminal.described import check_settings, setting

#: Seconds: how fast the temporal penalty grows outside the true window.
SIGMA_S = 0.5
#: A claim is relevant, where that is asked yes or no, from this relevance on.
RELEVANT = 0.5

#: First and last second of a window.
Seconds = tuple[float, float]


@dataclass(frozen=True)
class SerConfig:
    """Weights of R_SER: lambda_t, lambda_l, lambda_x, and the number of claims that are checked."""

    temporal_penalty: float = setting(0.5, least=0, most=1)
    looseness_penalty: float = setting(0.25, least=0)
    excess_penalty: float = setting(0.25, least=0)
    max_claims: int = setting(8, least=1)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Checked:
    """A claim that was checked: ``relevance``, ``localisation`` and temporal ``penalty``, each in [0, 1]."""

    relevance: float
    localisation: float
    penalty: float = 0.0


def evidence_score(
    checked: Sequence[Checked], raw: int | None = None, loose: float = 0.0, config: SerConfig | None = None
) -> float:
    """R_SER; 0 without a claim.

    Args:
        checked: the claims that were checked, J of them.
        raw: J_raw, the number before the cut; None: as many.
        loose: :func:`looseness` of the answer's window.

    Example:
        >>> evidence_score([Checked(1, 1), Checked(0, 1)]), evidence_score([Checked(1, 1)] * 8, raw=50)
        (0.5, 0.79)
    """
    config = config or SerConfig()
    if not checked:
        return 0.0
    raw = len(checked) if raw is None else raw
    paid = math.fsum(
        c.relevance * (0.5 + 0.5 * c.localisation) * (1 - config.temporal_penalty * c.penalty) for c in checked
    )
    excess = max(0, raw - config.max_claims) / max(raw, 1)
    return paid / len(checked) - config.looseness_penalty * loose - config.excess_penalty * excess


def temporal_penalty(
    time_s: float,
    windows: Sequence[Seconds] | None,
    *,
    seen_s: Sequence[float] = (),
    sigma_s: float = SIGMA_S,
) -> float:
    """Penalty p of a moment, in [0, 1]: 0 inside a true window, ``1 - exp(-d^2 / (2 sigma^2))`` at a distance of d
    seconds from the nearest edge, before it or behind it alike.

    Args:
        windows: the true windows; None where they are not known: then a moment that was not shown (``seen_s``) counts
            1, any other 0.
        seen_s: the moments that the judge was shown.

    Example:
        >>> [round(temporal_penalty(t, [(1, 2)]), 4) for t in (0.5, 1, 1.5, 2.25, 2.5)]
        [0.3935, 0.0, 0.0, 0.1175, 0.3935]
    """
    if windows is None:
        return 0.0 if any(abs(time_s - t) < 1e-6 for t in seen_s) else 1.0
    distance = min((max(start - time_s, time_s - end, 0.0) for start, end in windows), default=math.inf)
    return -math.expm1(-(distance**2) / (2 * sigma_s**2))


def looseness(window: Seconds | None, relevant_s: Sequence[float], duration_s: float) -> float:
    """The seconds that the answer's window has more than the span of its relevant claims, as a share of the video; 0
    without a window.

    Example:
        >>> looseness((1.0, 4.0), [2.0, 3.0], 5.0)
        0.4
    """
    if window is None:
        return 0.0
    span = max(relevant_s) - min(relevant_s) if relevant_s else 0.0
    return max(0.0, (window[1] - window[0] - span) / duration_s)


def soft_score(probabilities: Sequence[float]) -> float:
    """Expected grade under the probabilities of the grades 0, 1, 2, as a share of the best one.

    They are set in relation to each other, as Equation 7 does with the verdict words; what the model would write beside
    them does not count.

    Example:
        >>> soft_score([0.1, 0.3, 0.6])
        0.75
    """
    total = math.fsum(probabilities)
    if not total > 0:
        raise ValueError(f"the grades have the probabilities {list(probabilities)}; their sum must be above 0")
    return math.fsum(k * p for k, p in enumerate(probabilities)) / (total * (len(probabilities) - 1))
