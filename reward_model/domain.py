"""Familiarity of a video to a checkpoint: by what the checkpoint states, and by what the model sees of the video.

* *Stated*: :class:`TrainedOn`, the ranges of length, rate and size in ``judge.json``.
* *Seen*: :class:`Domain`, two distances taken from the prefill that reads the verdict anyway.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
#: A fact may lie this share outside the stated range before it counts: files state rates such as 23.976.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Familiarity:
    """Place of a video among those of the training distribution.

    Attributes:
        appearance, state: share of the reference videos that are nearer by this distance, in [0, 1].
        out_of_domain: true if either is above what all but a few of the reference videos reach.
        reason: the same in words, "" inside the domain.
    """

    appearance: float
    state: float
    out_of_domain: bool
    reason: str = ""

    @property
    def farthest(self) -> float:
        """The higher of the two quantiles."""
        return max(self.appearance, self.state)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Familiarity | None:
        return None if data is None else cls(**data)


@dataclass(frozen=True)
class TrainedOn:
    """The training set of a checkpoint, as its ``judge.json`` states it; each range is (least, most), None: not stated.

    Attributes:
        seconds, fps: length and frame rate of the videos.
        side: pixels of the smaller side and of the larger, over all videos.
        aspect: width over height.
        footage: the kind of footage in words.
    """

    seconds: tuple[float, float] | None = None
    fps: tuple[float, float] | None = None
    side: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    footage: str = ""

    def __post_init__(self) -> None:
        for name in ("seconds", "fps", "side", "aspect"):
            value = getattr(self, name)
            if value is None:
                continue
            numbers = isinstance(value, list | tuple) and all(
                isinstance(v, int | float) and not isinstance(v, bool) for v in value
            )
            if not numbers or len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(
                    f"trained_on: {name}={value!r} must be two numbers above 0, the least and the most of the training "
                    "videos"
                )
            object.__setattr__(self, name, (float(value[0]), float(value[1])))
        if not isinstance(self.footage, str):
            raise ValueError(f"trained_on: footage={self.footage!r} must be a text, such as 'talking heads, indoors'")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainedOn:
        """Raises ValueError for a key or value that makes no sense."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"trained_on: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**data)

    @classmethod
    def of(cls, facts: Sequence[tuple[int, float, int, int]], footage: str = "") -> TrainedOn:
        """The ranges of videos given as (frames, frames per second, width, height); sides of 0 are not known.

        >>> TrainedOn.of([(33, 16.0, 64, 48), (97, 16.0, 48, 64)]).seconds
        (2.06, 6.06)
        """
        if not facts:
            return cls(footage=footage)
        sizes = [(w, h) for _, _, w, h in facts if w and h]
        return cls(
            seconds=_range([count / fps for count, fps, _, _ in facts]),
            fps=_range([fps for _, fps, _, _ in facts]),
            side=_range([side for size in sizes for side in size]) if sizes else None,
            aspect=_range([w / h for w, h in sizes]) if sizes else None,
            footage=footage,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values of what is stated."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v}

    def objections(self, num_frames: int, fps: float, size: tuple[int, int] | None = None) -> list[str]:
        """Reasons why a video is not of this kind; none if it is, as far as that is stated.

        Args:
            num_frames, fps: length and rate of the video.
            size: height and width in pixels; None: not known.

        >>> TrainedOn(seconds=(2.1, 6.1)).objections(161, 16.0)
        ['10.1 s; trained on 2.1 to 6.1 s']
        """
        facts: list[tuple[str, list[float], tuple[float, float] | None]] = []
        if num_frames and fps > 0:
            facts = [("{} s", [num_frames / fps], self.seconds), ("{} frames per second", [fps], self.fps)]
        if size is not None and min(size) > 0:
            height, width = size
            facts.append(("sides of {} pixels", [height, width], self.side))
            facts.append(("width over height {}", [width / height], self.aspect))
        said = []
        for text, values, stated in facts:
            if stated is None or all(_inside(v, stated) for v in values):
                continue
            low, high = map(_three_digits, stated)
            trained = low if low == high else f"{low} to {high}"
            shown = " and ".join(dict.fromkeys(map(_three_digits, values)))
            unit = text.partition("{} ")[2]
            said.append(f"{text.format(shown)}; trained on {trained}{' ' + unit if unit else ''}")
        return said


def _three_digits(value: float) -> str:
    """A number as people write it: three digits at least, never an exponent.

    >>> _three_digits(10.0625), _three_digits(1360.0)
    ('10.1', '1360')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


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


def _inside(value: float, stated: tuple[float, float]) -> bool:
    return stated[0] * (1 - TOLERANCE) <= value <= stated[1] * (1 + TOLERANCE)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return round(min(values), 2), round(max(values), 2)
