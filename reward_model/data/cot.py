"""Verified reasoning as JSONL, one sample per line: the frames shown, the answer to learn, and how it was obtained.

Example:
    >>> samples = read_cot("outputs/cot/cot.jsonl")                                          # doctest: +SKIP
    >>> samples[0].turn, samples[0].report().status                                          # doctest: +SKIP
    ('scan', 'abnormal')
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from reward_model.files import atomic
from reward_model.parsing import ParseError, parse_turn
from reward_model.schema import Status, TurnReport
from reward_model.strict_json import is_int

TurnName = Literal["scan", "zoom"]
Saliency = Literal["salient", "non-salient"]
#: The number :func:`reward_model.parsing.parse_turn` knows a turn by.
TURN_NUMBER: Mapping[str, int] = {"scan": 1, "zoom": 2}

MAX_ROUNDS = 5
#: Errors a message shows; the rest is counted.
_MAX_SHOWN = 50


@dataclass(frozen=True)
class CotSample:
    """One verified answer of a teacher.

    Attributes:
        video_id: the annotated video it belongs to.
        turn: ``"scan"`` (turn one, whole video) or ``"zoom"`` (turn two, clip).
        indices: native frames shown, in order; the answer's frame ``k`` is native frame ``indices[k]``.
        answer: the canonical JSON answer (:func:`reward_model.parsing.format_report`), what training writes.
        status: the answer's verdict.
        rounds: the first round that passed verification, 1-5.
        saliency: ``"salient"`` if that was one of the first three; normal samples are always salient (their gamma is 1
            in Eq. 6).
        teacher: who wrote it.
        prompt_version: wording it was asked with, for instance ``"paper-1+0a1b2c3d"``.
        extra: anything else of the line, kept as it is.

    Raises:
        ValueError: if a field contradicts another, or the answer does not parse for that turn and number of frames.
    """

    video_id: str
    turn: TurnName
    indices: tuple[int, ...]
    answer: str
    status: Status
    rounds: int
    saliency: Saliency
    teacher: str
    prompt_version: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fault = self._fault_of_fields() or self._fault_of_answer()
        if fault:
            raise ValueError(f"sample of video {self.video_id!r}: {fault}")

    def report(self) -> TurnReport:
        """The parsed answer; its indices are frames of the clip."""
        return parse_turn(self.answer, turn=TURN_NUMBER[self.turn], num_frames=len(self.indices))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one line; :meth:`from_dict` restores an equal sample."""
        known = {name: getattr(self, name) for name in _NAMES}
        return {**known, "indices": list(self.indices), **self.extra}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CotSample:
        """The sample of one JSON object; unknown keys go to ``extra``.

        Raises:
            ValueError: if a key is missing or a value breaks a rule.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"expected one JSON object per line, got {type(data).__name__}")
        missing = [name for name in _NAMES if name not in data]
        if missing:
            raise ValueError(f"key(s) {', '.join(map(repr, missing))} missing; needed are {', '.join(_NAMES)}")
        if not isinstance(data["indices"], list):
            raise ValueError(f"indices must be a list of native frames, got {type(data['indices']).__name__}")
        values = {name: data[name] for name in _NAMES} | {"indices": tuple(data["indices"])}
        return cls(**values, extra={k: v for k, v in data.items() if k not in _NAMES})

    def _fault_of_fields(self) -> str | None:
        for name in ("video_id", "answer", "teacher", "prompt_version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                return f"{name} is {value!r}; it must be a string that is not empty"
        for name, allowed in (("turn", TurnName), ("status", Status), ("saliency", Saliency)):
            if getattr(self, name) not in get_args(allowed):
                return f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, get_args(allowed)))}"
        if not self.indices or not all(is_int(n) and n >= 0 for n in self.indices):
            return f"indices {list(self.indices)[:8]} must be native frame numbers from 0, at least one"
        if any(b <= a for a, b in pairwise(self.indices)):
            return f"indices {list(self.indices)[:8]} must rise: frames are shown in the order of time"
        if not is_int(self.rounds) or not 1 <= self.rounds <= MAX_ROUNDS:
            return f"rounds is {self.rounds!r}; it must be the first round that passed, 1-{MAX_ROUNDS}"
        taken = sorted(set(self.extra) & set(_NAMES))
        return f"extra key {taken[0]!r} belongs to the sample itself; rename it" if taken else None

    def _fault_of_answer(self) -> str | None:
        try:
            status = self.report().status
        except ParseError as error:
            return f"the answer is not a {self.turn} answer over {len(self.indices)} frames: {error.reason}"
        return (
            None if status == self.status else f"status {self.status!r} contradicts the answer, which says {status!r}"
        )


_NAMES = tuple(f.name for f in fields(CotSample) if f.name != "extra")


def read_cot(path: str | Path) -> list[CotSample]:
    """The samples of a file, in its order; blank lines are skipped.

    Raises:
        ValueError: if the file is missing, or lines break a rule; every error is listed with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no reasoning file at {str(path)!r}; make one with recipes/synthesize_cot.py")
    samples: list[CotSample] = []
    problems: list[str] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            samples.append(CotSample.from_dict(json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = [f"... and {len(problems) - _MAX_SHOWN} more"] if len(problems) > _MAX_SHOWN else []
        raise ValueError("\n".join([f"{path}: {len(problems)} problem(s)", *problems[:_MAX_SHOWN], *more]))
    return samples


def write_cot(path: str | Path, samples: Iterable[CotSample]) -> Path:
    """Writes samples as JSONL, atomically: an existing file is replaced as a whole or not touched. Returns the path."""
    lines = [json.dumps(sample.to_dict(), ensure_ascii=False, allow_nan=False) for sample in samples]
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return Path(path)
