"""Videos of one prompt compared two by two, each pair in both orders, and ranked by how often they are preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from reward_model.backends.base import Backend
    from reward_model.conversation import Completion
    from reward_model.unified.pairs import PairProtocol


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two videos, a and b.

    Attributes:
        share: preference for a in [0, 1], the mean of both orders; 0.5 is a tie. None if an order has no answer,
            because one order alone is biased by position.
        orders: share of a when it was shown first, and when it was shown second.
        axes: share of a in each dimension that both answers rate, the mean of both orders.
        error: why there is no share.
        texts: both answers.
        provenance: the model, the protocol and the hash of its wording.
    """

    share: float | None
    orders: tuple[float | None, float | None] = (None, None)
    axes: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    texts: tuple[str, str] = ("", "")
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def consistent(self) -> bool | None:
        """True if both orders prefer the same video, or both call a tie; None without a share."""
        first, second = self.orders
        if first is None or second is None:
            return None
        return (first > 0.5) == (second > 0.5) and (first < 0.5) == (second < 0.5)


@dataclass(frozen=True)
class Ranking:
    """Several videos of one prompt.

    Attributes:
        scores: scores of each video, the mean share in [0, 1] against the others; None if it was compared with none.
        order: indices of the videos, best first; those without a score are left out.
        comparisons: by pairs (a, b) of indices, a < b.
        reasons: why a score is None.
    """

    scores: list[float | None]
    order: list[int]
    comparisons: Mapping[tuple[int, int], Comparison]
    reasons: list[str | None]

    @property
    def consistency(self) -> float | None:
        """Part of the comparisons in which both orders agree: 1 is a judge without position bias."""
        agreed = [c.consistent for c in self.comparisons.values() if c.consistent is not None]
        return sum(agreed) / len(agreed) if agreed else None


def merge_orders(
    protocol: PairProtocol, forward: Completion, backward: Completion, provenance: Mapping[str, Any]
) -> Comparison:
    """Two answers about videos a and b as one comparison; ``forward`` is the one to which a was shown first."""
    from reward_model.unified.protocols import ScoreError
    from reward_model.unified.score import complete_lines

    shares: list[float | None] = [None, None]
    axes: list[Mapping[str, float]] = [{}, {}]
    errors = []
    for k, answer in enumerate((forward, backward)):
        try:
            if answer.error:
                raise ScoreError(answer.error)
            found = protocol.read(complete_lines(answer))
        except ScoreError as error:
            errors.append(f"with {'ab'[k]} first: {error}")
            continue
        shares[k] = found.share if k == 0 else 1 - found.share
        axes[k] = found.axes if k == 0 else {name: 1 - share for name, share in found.axes.items()}
    first, second = shares
    return Comparison(
        share=None if first is None or second is None else (first + second) / 2,
        orders=(first, second),
        axes={name: (axes[0][name] + axes[1][name]) / 2 for name in axes[0] if name in axes[1]},
        error="; ".join(errors) or None,
        texts=(forward.text, backward.text),
        provenance=provenance,
    )


def compare_all(
    backend: Backend, protocol: PairProtocol, videos: Sequence[np.ndarray], prompt: str, batch_size: int | None = None
) -> dict[tuple[int, int], Comparison]:
    """Every pair of videos in both orders: n (n - 1) questions.

    Args:
        backend: who answers.
        videos: (T, H, W, 3) uint8 each.
        prompt: the text they were made from.
        batch_size: questions asked at once; None: all.
    """
    from reward_model.conversation import Sampling
    from reward_model.unified.score import ask_in_batches, describe_protocol

    shown = [protocol.show(frames) for frames in videos]
    pairs = list(combinations(range(len(videos)), 2))
    asked = [protocol.conversation(shown[i], shown[j], prompt) for a, b in pairs for i, j in ((a, b), (b, a))]
    answers = list(ask_in_batches(backend, asked, Sampling(protocol.max_new_tokens), batch_size))
    by = describe_protocol(backend, protocol)
    both = zip(answers[::2], answers[1::2], strict=True)
    return {pair: merge_orders(protocol, *found, by) for pair, found in zip(pairs, both, strict=True)}


def rank_by_share(comparisons: Mapping[tuple[int, int], Comparison], num_videos: int) -> Ranking:
    """The ranking that comparisons make; pairs that are missing or have no share count for neither video."""
    shares: list[list[float]] = [[] for _ in range(num_videos)]
    errors: list[list[str]] = [[] for _ in range(num_videos)]
    for (a, b), found in comparisons.items():
        for video, other in ((a, b), (b, a)):
            if found.share is None:
                errors[video].append(f"against video {other}: {found.error}")
            else:
                shares[video].append(found.share if video == a else 1 - found.share)
    scores = [sum(s) / len(s) if s else None for s in shares]
    known = {k: score for k, score in enumerate(scores) if score is not None}
    reasons = [
        None if s is not None else "; ".join(e) or "there is no other video to compare with"
        for s, e in zip(scores, errors, strict=True)
    ]
    return Ranking(scores, sorted(known, key=lambda k: (-known[k], k)), dict(comparisons), reasons)
