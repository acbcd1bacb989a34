"""Texts a judge may write in an episode: an operator with what it thinks so far, or the answer.

An operator is one JSON object with an explicit hypothesis, revised at every look::

    {"think": "...", "hyp": {"status": "normal", "p": 40, "types": [], "window": [2.0, 3.0]},
     "act": {"op": "zoom", "a": 2.0, "b": 3.0, "k": 4}}

Moments are seconds of the video. A wording may ask for frames of the current view in their place, counted from zero as
everywhere: ``"frames": "4-6"`` for ``window``, ``a`` and ``b``, and ``"frame": 6`` for ``t``. The answer is turn two's
JSON about the view it was given at, so that parser, readout, metrics and rewards are those of the two-turn judge.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_model.active.operators import OPERATORS, Backtrack, Expand, Operator, Zoom
from reward_model.active.views import CLOSE, frames_window
from reward_model.config import JudgeConfig
from reward_model.parsing import MAX_ANSWER_LENGTH, STATUS, find_status, whole_characters
from reward_model.schema import Anomaly, AnomalyType, FrameRange, Status, TurnReport, sort_types
from reward_model.strict_json import is_int, is_number, strict_decoder
from reward_model.turns import Reading, cut_reason, read_turn
from reward_model.video.framing import AS_IT_IS, Framing

THINK, HYPOTHESIS, ACT, OP = "think", "hyp", "act", "op"
_FRAMES = re.compile(r"(?:frames?\s*+)?(\d{1,6})(?:\s*+-\s*+(\d{1,6}))?", re.IGNORECASE)
_START = re.compile(r'\{(?=\s*+")')


class MoveError(ValueError):
    """A text that is neither an operator nor an answer; the message is one sentence."""


@dataclass(frozen=True)
class Hypothesis:
    """Hypothesis of the judge so far: a status, how likely ``abnormal`` is in percent, types, and a window in
    seconds.
    """

    status: Status = "normal"
    percent: float = 50.0
    types: tuple[AnomalyType, ...] = ()
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Move:
    """One text of a judge as it counts.

    Attributes:
        text: as it was written.
        operator: what it asks for; None: it is an answer, or cannot be read.
        think, hypothesis: of an operator.
        answer: the reading of an answer.
        error: why it can be read as neither; None of an operator or a sound answer.
        num_tokens: of the text.
        failed: why the model could not be asked.
    """

    text: str
    operator: Operator | None = None
    think: str = ""
    hypothesis: Hypothesis = field(default_factory=Hypothesis)
    answer: Reading | None = None
    error: str | None = None
    num_tokens: int = 0
    failed: str | None = None

    @property
    def status(self) -> Status | None:
        """The status an answer states; None of an operator, and where none is legible."""
        return self.answer.status if self.answer else None


def read_move(
    text: str,
    indices: Sequence[int],
    fps: float,
    config: JudgeConfig,
    framing: Framing = AS_IT_IS,
    *,
    cut_after: int | None = None,
    num_tokens: int = 0,
) -> Move:
    """A text as an operator, an answer, or neither.

    Args:
        indices: native frames of the current view.
        fps: frames per second of the video.
        config: how strict answers are read.
        framing: how frames were shown.
        cut_after: tokens after which a limit cut the text; None: it ended by itself.
    """
    try:
        data = _look_object(text)
        if data is not None:
            if cut_after is not None:
                raise MoveError(cut_reason(cut_after))
            hypothesis, operator = _read_look(data, tuple(indices), fps)
            think = whole_characters(_text(data.get(THINK, "")))
            return Move(text, operator, think, hypothesis, num_tokens=num_tokens)
    except MoveError as error:
        return Move(text, error=str(error), num_tokens=num_tokens)
    reading = read_turn(text, 2, len(indices), config, framing, cut_after=cut_after)
    reason = reading.error.reason if reading.error is not None else None
    return Move(text, answer=reading, error=reason, num_tokens=num_tokens)


def write_look(
    operator: Operator,
    think: str = "",
    hypothesis: Hypothesis | None = None,
    *,
    indices: Sequence[int] = (),
    fps: float = 1.0,
    frames: bool = False,
) -> str:
    """The canonical text of an operator, which :func:`read_move` reads back.

    Args:
        indices, fps: of the current view, for ``frames``.
        frames: name moments by the nearest frames of the view, not in seconds.
    """
    held = hypothesis or Hypothesis()

    def frame(moment: float) -> int:
        return min(range(len(indices)), key=lambda k: abs(indices[k] / fps - moment))

    def span(start: float, end: float) -> str:
        return f"{frame(start)}-{frame(end)}"

    said: dict[str, Any] = {
        STATUS: held.status,
        "p": round(held.percent),
        "types": [t.value for t in held.types],
    }
    if frames:
        said["frames"] = None if held.window is None else span(*held.window)
    else:
        said["window"] = None if held.window is None else [round(s, 4) for s in held.window]
    act: dict[str, Any] = {OP: operator.name}
    if isinstance(operator, Backtrack):
        act |= {"frame": frame(operator.moment)} if frames else {"t": round(operator.moment, 4)}
        act["w"] = operator.width
    elif isinstance(operator, Expand):
        act |= {"dl": operator.left, "dr": operator.right}
    else:
        places = {"a": round(operator.start, 4), "b": round(operator.end, 4)}
        act |= {"frames": span(operator.start, operator.end)} if frames else places
        act["k"] = operator.factor
    return json.dumps({THINK: think, HYPOTHESIS: said, ACT: act}, ensure_ascii=False)


def hypothesis_report(move: Move, indices: Sequence[int], fps: float) -> TurnReport | None:
    """Hypothesis in an operator's text, as a report of turn one on the view; None of an anomaly without a type or a
    place in the view.
    """
    held = move.hypothesis
    if held.status == "normal":
        return TurnReport("normal", move.think)
    if held.window is None or not held.types or not indices:
        return None
    inside = [k for k, n in enumerate(indices) if held.window[0] - CLOSE <= n / fps <= held.window[1] + CLOSE]
    if not inside:
        return None
    window = FrameRange(inside[0], inside[-1])
    return TurnReport("abnormal", move.think, tuple(Anomaly(kind, window) for kind in held.types))


# --- reading ----------------------------------------------------------------------------------------------------------


_DECODER = strict_decoder(MoveError, control_characters=True)


def _look_object(text: str) -> Mapping[str, Any] | None:
    """The object of an operator; None if the text is to be read as an answer."""
    start = _START.search(text) if len(text) <= MAX_ANSWER_LENGTH else None
    if start is None:
        return None
    try:
        value, end = _DECODER.raw_decode(text, start.start())
    except RecursionError:
        raise MoveError("the text is nested too deeply") from None
    except MoveError:
        raise
    except ValueError:
        return None
    if not isinstance(value, dict) or ACT not in value:
        return None
    if find_status(text) is not None or _START.search(text, end):
        raise MoveError("the text holds an operator and another object")
    return value


def _read_look(data: Mapping[str, Any], indices: tuple[int, ...], fps: float) -> tuple[Hypothesis, Operator]:
    act = data[ACT]
    if not isinstance(act, dict) or act.get(OP) not in OPERATORS:
        raise MoveError(f"{ACT} must name one of {', '.join(OPERATORS)}, got {_shown(act)}")
    return _hypothesis(data.get(HYPOTHESIS), indices, fps), _operator(act, indices, fps)


def _hypothesis(said: object, indices: tuple[int, ...], fps: float) -> Hypothesis:
    if not isinstance(said, dict):
        raise MoveError(f"{HYPOTHESIS} must be an object, got {_shown(said)}")
    status, percent, named = said.get(STATUS), said.get("p", 50), said.get("types", [])
    if status not in ("normal", "abnormal"):
        raise MoveError(f'{HYPOTHESIS}.{STATUS} must be "normal" or "abnormal", got {_shown(status)}')
    if not is_number(percent) or not 0 <= percent <= 100:
        raise MoveError(f"{HYPOTHESIS}.p must be a number from 0 to 100, got {_shown(percent)}")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise MoveError(f"{HYPOTHESIS}.types must be a list of names, got {_shown(named)}")
    try:
        types = sort_types(AnomalyType.parse(name) for name in named)
    except ValueError as error:
        raise MoveError(f"{HYPOTHESIS}.types: {error}") from None
    window = None
    if said.get("frames") is not None:
        window = _span(said["frames"], indices, fps, f"{HYPOTHESIS}.frames")
    elif (stated := said.get("window")) is not None:
        if not isinstance(stated, list) or len(stated) != 2 or not all(map(is_number, stated)):
            raise MoveError(f"{HYPOTHESIS}.window must be two seconds, got {_shown(stated)}")
        window = float(stated[0]), float(stated[1])
    return Hypothesis(status, float(percent), types, window)


def _operator(act: Mapping[str, Any], indices: tuple[int, ...], fps: float) -> Operator:
    name = act[OP]
    if name == Backtrack.name:
        if "frame" in act:
            frame = act["frame"]
            if not is_int(frame) or not 0 <= frame < len(indices):
                raise MoveError(f"backtrack.frame must be one of the view's {len(indices)} frames, got {_shown(frame)}")
            return Backtrack(indices[frame] / fps, _number(act, "w"))
        return Backtrack(_number(act, "t"), _number(act, "w"))
    if name == Expand.name:
        return Expand(_number(act, "dl"), _number(act, "dr"))
    factor = act.get("k")
    if not is_int(factor):
        raise MoveError(f"zoom.k must be a whole number, got {_shown(factor)}")
    if "frames" in act:
        return Zoom(*_span(act["frames"], indices, fps, "zoom.frames"), factor)
    return Zoom(_number(act, "a"), _number(act, "b"), factor)


def _span(value: object, indices: tuple[int, ...], fps: float, where: str) -> tuple[float, float]:
    match = _FRAMES.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise MoveError(f"{where} must be frames such as '4-6', got {_shown(value)}")
    try:
        return frames_window(FrameRange(int(match[1]), int(match[2] or match[1])), indices, fps)
    except ValueError as error:
        raise MoveError(f"{where}: {error}") from None


def _number(act: Mapping[str, Any], name: str) -> float:
    value = act.get(name)
    if not is_number(value) or not math.isfinite(value):
        raise MoveError(f"{act[OP]}.{name} must be a number, got {_shown(value)}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MoveError(f"{THINK} must be a text, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
