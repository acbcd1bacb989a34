"""Distance of a video from those a checkpoint was trained on: two numbers, both taken from the prefill that reads the
verdict anyway.

A judge is as sure of itself on videos it knows nothing about as on its own. Two statistics of its prefill tell them
apart, and neither does it alone:

* *appearance*: mean and standard deviation, over all picture tokens, of the features that enter the language model.
  Distance: the mean cosine distance to the :data:`NEIGHBOURS` nearest training videos, on principal directions each
  divided by the root of its deviation, which is half-way to whitening. Blind to length and speed.
* *state*: the hidden state of the last token of the question in the middle layer. Distance: the norm of what lies
  outside the principal directions that hold :data:`STATE_VARIANCE` of the training variance. Blind to some looks.

Both are standardised first and read as quantiles of videos of the training distribution that the fit has not seen. A
video is out of domain where the higher of its two quantiles is above that of all but :data:`FLAGGED` of those.
This is a choice of this project; the paper (arXiv 2605.11723) is silent about videos unlike its training set.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reward_model.familiarity import Familiarity

logger = logging.getLogger(__name__)

DOMAIN_FILE = "domain.safetensors"
#: Share of the training distribution that is called out of domain, both distances together.
FLAGGED = 0.06
#: Training videos whose distance counts.
NEIGHBOURS = 5
#: Shares of the variance that the principal directions of each statistic hold.
APPEARANCE_VARIANCE, STATE_VARIANCE = 0.99, 0.999
#: Power of its deviation by which a direction of appearance is divided: 0 leaves it, 1 whitens.
WHITENING = 0.5
#: Statistics wider than this are projected to it at random first, so that the file of an 8B judge stays small.
WIDTH = 512
#: Fewest videos to fit on, and to take quantiles from.
MIN_FIT, MIN_REFERENCE = 50, 30

_FORMAT = "1"
_TENSORS = (
    "appearance_mean",
    "appearance_std",
    "appearance_basis",
    "appearance_bank",
    "appearance_reference",
    "state_mean",
    "state_std",
    "state_basis",
    "state_reference",
)


class Signs(NamedTuple):
    """The two statistics of one prefill: ``appearance`` (2 D,) and ``state`` (d,), float32."""

    appearance: np.ndarray
    state: np.ndarray


@dataclass(frozen=True, eq=False)
class Domain:
    """Statistics of the videos a checkpoint was trained on.

    Attributes:
        appearance_mean, appearance_std: (A,) of the training videos, A = min(2 D, :data:`WIDTH`).
        appearance_basis: (K, A) principal directions of the standardised appearances, half-way whitened.
        appearance_bank: (N, K) training videos on them, of length 1.
        state_mean, state_std: (S,), S = min(d, :data:`WIDTH`).
        state_basis: (K, S) principal directions of the standardised states, orthonormal rows.
        appearance_reference, state_reference: (M,) distances of videos that were not fitted, in one order.
    """

    appearance_mean: np.ndarray
    appearance_std: np.ndarray
    appearance_basis: np.ndarray
    appearance_bank: np.ndarray
    appearance_reference: np.ndarray
    state_mean: np.ndarray
    state_std: np.ndarray
    state_basis: np.ndarray
    state_reference: np.ndarray

    def distances(self, signs: Sequence[Signs]) -> tuple[np.ndarray, np.ndarray]:
        """Both distances (B,) of B videos.

        Raises:
            ValueError: if the statistics are of another width than those that were fitted.
        """
        appearance = self._standardised("appearance", np.stack([s.appearance for s in signs]))
        state = self._standardised("state", np.stack([s.state for s in signs]))
        looks = appearance @ self.appearance_basis.T
        return neighbour_distance(looks, self.appearance_bank), residual_norm(state, self.state_basis)

    def read(self, signs: Sequence[Signs]) -> list[Familiarity]:
        """Place of each video among those of the training distribution."""
        if not signs:
            return []
        limit = self.limit
        places = self._places(*self.distances(signs))
        return [_familiarity(float(a), float(s), limit) for a, s in zip(*places, strict=True)]

    @property
    def limit(self) -> float:
        """The quantile that the higher of the two reaches in all but :data:`FLAGGED` of the reference videos."""
        reference = self._places(self.appearance_reference, self.state_reference)
        return float(np.quantile(np.maximum(*reference), 1 - FLAGGED))

    def _places(self, near: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        references = (np.sort(self.appearance_reference), np.sort(self.state_reference))
        return quantile_of(near, references[0]), quantile_of(rest, references[1])

    def save(self, folder: str | Path) -> Path:
        """Writes :data:`DOMAIN_FILE` into a checkpoint's folder; whole or not at all."""
        from safetensors.numpy import save

        from reward_model.files import atomic

        path = Path(folder) / DOMAIN_FILE
        tensors = {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _TENSORS}
        with atomic(path) as part:
            part.write_bytes(save(tensors, metadata={"format": _FORMAT}))
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Domain | None:
        """The statistics of a checkpoint's folder; None if it has none.

        Raises:
            ValueError: if the file is damaged, or of a format this version does not know.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / DOMAIN_FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                form = (file.metadata() or {}).get("format")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); delete it, or write it anew with `cac-align data domain`"
            ) from error
        if form != _FORMAT:
            raise ValueError(
                f"{path} is of format {form!r}, this version reads {_FORMAT!r}; write it anew with "
                "`cac-align data domain`"
            )
        return cls(**tensors)

    def _standardised(self, name: str, values: np.ndarray) -> np.ndarray:
        mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
        values = projected(values)
        if values.shape[1] != len(mean):
            raise ValueError(
                f"the {name} of this model has {values.shape[1]} numbers, {DOMAIN_FILE} was made from {len(mean)}: it "
                "belongs to another checkpoint; delete it, or write it anew"
            )
        return (values - mean) / std


def load_domain(folder: str | Path) -> Domain | None:
    """:meth:`Domain.load`; a file that cannot be read is warned of, not raised: it never keeps a judge from judging."""
    try:
        return Domain.load(folder)
    except ValueError as error:
        logger.warning("%s. Verdicts do not say how familiar a video is", error)
        return None


def fit_domain(training: Sequence[Signs], reference: Sequence[Signs]) -> Domain:
    """Statistics of a checkpoint's training distribution.

    Args:
        training: of the videos that stand for it.
        reference: of other videos of the same distribution; quantiles are taken from them, since a video that was
            fitted is its own nearest neighbour.

    Raises:
        ValueError: if there are fewer than :data:`MIN_FIT` or :data:`MIN_REFERENCE` videos, or a number is not finite.
    """
    for name, signs, least in (("training", training, MIN_FIT), ("reference", reference, MIN_REFERENCE)):
        if len(signs) < least:
            raise ValueError(f"{len(signs)} {name} videos are too few to know a domain by; give at least {least}")
        if not all(np.isfinite(part).all() for sign in signs for part in sign):
            raise ValueError(f"a {name} video has features that are not finite; is the checkpoint broken?")
    appearance = projected(np.stack([s.appearance for s in training]))
    state = projected(np.stack([s.state for s in training]))
    a_mean, a_std, s_mean, s_std = *moments(appearance), *moments(state)
    looks = (appearance - a_mean) / a_std
    directions = half_whitened(looks, principal_directions(looks, APPEARANCE_VARIANCE))
    bank = unit_rows(looks @ directions.T)
    basis = principal_directions((state - s_mean) / s_std, STATE_VARIANCE)
    empty = np.zeros(0, np.float32)
    unread = Domain(a_mean, a_std, directions, bank, empty, s_mean, s_std, basis, empty)
    near, rest = unread.distances(reference)
    return replace(unread, appearance_reference=near, state_reference=rest)


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over rows; a column that never changes has a deviation of 1."""
    std = values.std(axis=0)
    return values.mean(axis=0), np.where(std > 1e-6 * (1 + np.abs(values).max(axis=0)), std, 1.0).astype(values.dtype)


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros stay.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)


def neighbour_distance(values: np.ndarray, bank: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Mean cosine distance (B,) of rows (B, A) to their nearest rows of ``bank`` (N, A), which have length 1."""
    distances = 1 - unit_rows(values) @ bank.T  # (B, N)
    count = min(neighbours, bank.shape[0])
    return np.partition(distances, count - 1, axis=1)[:, :count].mean(axis=1)


def residual_norm(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Length (B,) of what is left of rows (B, S) outside the span of the orthonormal rows of ``basis`` (K, S)."""
    return np.linalg.norm(values - (values @ basis.T) @ basis, axis=1)


def principal_directions(values: np.ndarray, variance: float) -> np.ndarray:
    """The fewest principal directions (K, S) of centred rows (N, S) that hold a share of their variance."""
    _, singular, directions = np.linalg.svd(values, full_matrices=False)
    held = np.cumsum(singular**2) / max(float((singular**2).sum()), np.finfo(values.dtype).tiny)
    return directions[: int(np.searchsorted(held, variance - 1e-12)) + 1]


def half_whitened(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """``directions`` (K, S), each divided by the deviation of the centred rows (N, S) along it to the power of
    :data:`WHITENING`: a look that training varied little counts for more, but not for as much as one that it varied
    widely.
    """
    along = (values @ directions.T).std(axis=0)
    scale = np.where(along > 0, along, 1.0) ** WHITENING
    return (directions / scale[:, None]).astype(values.dtype)


def quantile_of(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the sorted ``reference`` that is nearer than each value.

    >>> quantile_of(np.array([0.0, 2.5, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.searchsorted(reference, values, side="left") / len(reference)


def projected(values: np.ndarray) -> np.ndarray:
    """Rows (B, D) on at most :data:`WIDTH` random directions of equal signs, which keep distances (Achlioptas 2003).

    The signs come from numpy's frozen generator: the same in every version.
    """
    values = np.asarray(values, np.float32)
    if values.shape[1] <= WIDTH:
        return values
    signs = np.random.RandomState(values.shape[1]).randint(0, 2, (values.shape[1], WIDTH)).astype(np.float32)
    return values @ (2 * signs - 1) / np.float32(np.sqrt(WIDTH))


def _familiarity(appearance: float, state: float, limit: float) -> Familiarity:
    reasons = []
    if appearance > limit:
        reasons.append(f"its frames look unlike those of the training set (farther out than {appearance:.0%} of them)")
    if state > limit:
        reasons.append(
            "its length, speed or content puts the model into a state that training did not "
            f"(farther out than {state:.0%} of it)"
        )
    return Familiarity(appearance, state, bool(reasons), "; ".join(reasons))
