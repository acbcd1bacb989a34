"""The two-turn judge: scan the whole video at 4 fps, look again at the suspicious window at 8 fps, only then decide
(section 3.4).

    normal in turn one                       -> normal, one call
    abnormal, window valid, turn two agrees  -> abnormal, with turn two's boxes
    abnormal, window valid, turn two denies  -> normal
    abnormal, no usable window               -> abnormal, ends after turn one

Where windows far apart get a clip each (``crop="per_window"``), turn two is asked about each: the video is abnormal if
any confirms, and the turn that decides, the one with the lowest reward, is the verdict's last.

A video that cannot be read, or a backend that cannot answer, gives a verdict without status and score, and says why in
``error``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reward_model.backends.base import Backend
from reward_model.config import JudgeConfig
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.parsing import ParseError, forced_prefix
from reward_model.prompts import PromptSet, load_prompts, wording_note
from reward_model.readout import completed_prefix, direct_prefix, turn_score, turn_value, verdict_prefix
from reward_model.schema import Anomaly, FrameRange, Status, Turn, Verdict, VerdictScore
from reward_model.shipped import package_version
from reward_model.turn_two import legible_status, read_answer, turn_two_clips
from reward_model.video.clip import Video, VideoError, check_fps
from reward_model.video.load import load_video
from reward_model.video.sampling import native_window, sample_indices, thinned

logger = logging.getLogger(__name__)


@dataclass
class _Case:
    """One video on its way to a verdict."""

    video: Video | None = None
    prompt: str = ""
    error: str | None = None
    scan: Turn | None = None
    zooms: list[Turn] = field(default_factory=list)
    conversation: Conversation = ()
    window: FrameRange | None = None
    strict: bool = False

    @property
    def open(self) -> bool:
        return self.error is None


class TwoTurnJudge:
    """Judges videos with a vision-language model behind a :class:`~reward_model.backends.Backend`.

    Args:
        backend: who answers.
        config: settings; keyword ``overrides`` change single ones (see :class:`~reward_model.config.JudgeConfig`).

    Example:
        >>> judge = TwoTurnJudge(LocalBackend("Qwen/Qwen3-VL-8B-Instruct"), readout="paper")     # doctest: +SKIP
        >>> verdict = judge.judge(["clip.mp4"])[0]                                               # doctest: +SKIP
    """

    def __init__(self, backend: Backend, config: JudgeConfig | None = None, **overrides: Any) -> None:
        self.backend = backend
        self.config = (config or JudgeConfig()).override(**overrides)
        self.prompts: PromptSet = load_prompts(self.config.prompts)
        self._said_thinned = False
        if note := wording_note(self.prompts, self.config.prompt_version):
            logger.warning("%s", note)

    def judge(
        self,
        videos: Iterable[Any],
        prompts: Sequence[str | None] | str | None = None,
        *,
        fps: float | Sequence[float] | None = None,
        on_error: str = "verdict",
    ) -> list[Verdict]:
        """One verdict per video, in order; both turns run in batches.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second of the videos, one number or one each; files bring their own.
            on_error: ``"verdict"`` keeps going and reports an unreadable video in its verdict, ``"raise"`` raises.

        Raises:
            VideoError: ``fps`` is not a positive number, or a video is unreadable and ``on_error="raise"``.
            ValueError: the numbers of prompts or rates do not match the number of videos.
        """
        if on_error not in ("verdict", "raise"):
            raise ValueError(f"on_error={on_error!r} must be 'verdict' or 'raise'")
        items = list(videos)
        texts = _spread(prompts, len(items), "prompts", str)
        rates = _spread(fps, len(items), "fps", (int, float, np.integer, np.floating))
        for rate in rates:
            if rate is not None:
                check_fps(rate)
        verdicts = []
        for start in range(0, len(items), self.config.batch_size):
            chunk = slice(start, start + self.config.batch_size)
            verdicts += self._judge_batch(items[chunk], texts[chunk], rates[chunk], on_error)
        return verdicts

    def _judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[Any], rates: Sequence[Any], on_error: str
    ) -> list[Verdict]:
        cases = [self._open(v, p, r, on_error) for v, p, r in zip(videos, prompts, rates, strict=True)]
        self._scan([c for c in cases if c.open])
        suspects = [c for c in cases if c.open and self._find_window(c)]
        self._zoom(suspects)
        return [self._verdict(c) for c in cases]

    def _open(self, video: Any, prompt: str | None, fps: float | None, on_error: str) -> _Case:
        try:
            return _Case(load_video(video, fps), prompt or "", strict=on_error == "raise")
        except MemoryError:
            return _Case(error="not enough memory to read this video; cut it, or scale it down")
        except VideoError as error:
            if on_error == "raise" or (fps is None and "fps is required" in str(error)):
                raise
            return _Case(error=str(error))

    # --- turn one -----------------------------------------------------------------------------------------------------

    def _scan(self, cases: list[_Case]) -> None:
        shown, indices = [], []
        for case in cases:
            assert case.video is not None
            grid = sample_indices(case.video.num_frames, case.video.fps, self.config.scan_fps)
            index = thinned(grid, self.config.max_scan_frames)
            frames = self._frames(case, index)
            if frames is not None:
                case.conversation = self.prompts.scan(frames, case.prompt)
                shown.append(case)
                indices.append(index)
        turns = self._ask(1, [c.conversation for c in shown], indices)
        for case, turn in zip(shown, turns, strict=True):
            case.scan = _at_true_rate(turn, case)
            case.error = turn.error if turn.status is None else None
            if case.scan.fps < turn.fps:
                self._say_thinned(case)

    def _say_thinned(self, case: _Case) -> None:
        """Says once what a long video loses; every verdict carries it in its turn and its provenance."""
        if self._said_thinned or case.scan is None or case.video is None:
            return
        self._said_thinned = True
        seconds, rate = case.video.num_frames / case.video.fps, case.scan.fps
        logger.warning(
            "a video of %.0f s is scanned at %.2g frames per second instead of %g (max_scan_frames=%s): anomalies "
            "shorter than %.1f s can be missed. Cut long videos into pieces, or raise max_scan_frames",
            seconds, rate, self.config.scan_fps, self.config.max_scan_frames, 1 / rate,
        )  # fmt: skip

    def _find_window(self, case: _Case) -> bool:
        """Whether turn two is due; sets the suspicious window in native frames, as turn one named it."""
        report = case.scan.report if case.scan else None
        if report is None or report.window is None or case.scan is None or case.video is None:
            return False
        case.window = native_window(report.window, case.scan.frame_indices, case.video.num_frames, margin="none")
        return self.config.num_turns == 2

    # --- turn two -----------------------------------------------------------------------------------------------------

    def _zoom(self, cases: list[_Case]) -> None:
        asked: list[_Case] = []
        indices: list[list[int]] = []
        conversations: list[Conversation] = []
        for case in cases:
            assert case.video is not None and case.scan is not None and case.scan.report is not None
            video, report = case.video, case.scan.report
            for clip in turn_two_clips(report, case.scan.frame_indices, video.num_frames, video.fps, self.config):
                frames = self._frames(case, clip)
                if frames is None:
                    continue
                if self.config.context == "chat":
                    chat = self.prompts.zoom_continued(case.conversation, case.scan.text, frames, case.prompt)
                else:
                    cot = report.cot if self.config.context == "fresh" else ""
                    chat = self.prompts.zoom(frames, case.prompt, cot=cot)
                asked.append(case)
                indices.append(list(clip))
                conversations.append(chat)
        for case, turn in zip(asked, self._ask(2, conversations, indices), strict=True):
            case.zooms.append(_at_true_rate(turn, case))
            if turn.status is None:
                case.error = f"turn two: {turn.error}"
        for case in cases:
            case.zooms.sort(key=self._decides)

    def _decides(self, turn: Turn) -> tuple[bool, float]:
        """Orders the turns about several clips, the one that decides last."""
        value = self._value(turn)
        return turn.status == "abnormal", 0.0 if value is None else -value

    # --- both turns ---------------------------------------------------------------------------------------------------

    def _ask(self, number: int, conversations: list[Conversation], indices: list[list[int]]) -> list[Turn]:
        """Asks one turn of all videos at once and reads the verdict where the readout wants it."""
        if not conversations:
            return []
        config, started = self.config, time.perf_counter()
        if config.reasoning:
            limit = max(config.answer_limit(number, len(index)) for index in indices)
            sampling = Sampling(limit, config.temperature, seed=config.seed)
            answers = self.backend.generate(conversations, sampling)
        else:
            answers = [Completion(forced_prefix()) for _ in conversations]
        rate = config.scan_fps if number == 1 else config.zoom_fps
        turns = [
            self._read(Turn(number, tuple(index), rate, a.text, error=a.error, num_tokens=a.num_tokens))
            for a, index in zip(answers, indices, strict=True)
        ]
        after = config.reasoning and (config.readout == "paper" or config.all_readouts)
        before = config.readout != "paper" or config.all_readouts or not config.reasoning
        stated = [verdict_prefix(t.text) for t in turns]  # where an answer states its own status
        forced = [config.reasoning and place is None for place in stated]
        after = after or any(config.reasoning and not t.error and t.report is None for t in turns)
        ends = [place or completed_prefix(t.text) for place, t in zip(stated, turns, strict=True)]
        paper = self._score(conversations, turns, ends) if after else None
        direct = self._score(conversations, turns, [direct_prefix(place) for place in stated]) if before else None
        seconds = (time.perf_counter() - started) / len(turns)
        done = []
        for k, turn in enumerate(turns):
            score = paper[k] if paper else None
            score = replace(score, forced=forced[k]) if score else None
            scored = replace(turn, score=score, direct_score=direct[k] if direct else None, seconds=seconds)
            done.append(_decided(_sound(scored, config.readout)))
        return done

    def _read(self, turn: Turn) -> Turn:
        if turn.error or not self.config.reasoning:
            return turn
        try:
            report = read_answer(turn.text, turn.number, len(turn.frame_indices), self.config)
        except ParseError as error:
            return replace(turn, parse_error=error.reason, status=legible_status(turn.text, self.config))
        return replace(turn, report=report, status=report.status)

    def _score(
        self, conversations: list[Conversation], turns: list[Turn], prefixes: Sequence[str]
    ) -> list[VerdictScore | None]:
        """Scores of all answered turns in one batch; the same conversations again, so the backend can reuse their
        vision features.
        """
        alive = [k for k, t in enumerate(turns) if not t.error]
        found = self.backend.score([conversations[k] for k in alive], [prefixes[k] for k in alive]) if alive else []
        scores: list[VerdictScore | None] = [None] * len(turns)
        for k, score in zip(alive, found, strict=True):
            scores[k] = score
        return scores

    def _frames(self, case: _Case, index: Sequence[int]) -> np.ndarray | None:
        """The frames a turn is shown, (N, H, W, 3) uint8; None where they cannot be had, and the case says why."""
        assert case.video is not None
        size = self.config.frame_size
        try:
            return case.video.take(index, None if size is None else (size, size))
        except (VideoError, MemoryError) as error:
            if case.strict and isinstance(error, VideoError):
                raise
            case.error = str(error) or f"not enough memory for {len(index)} frames; lower max_scan_frames"
            return None

    # --- the verdict --------------------------------------------------------------------------------------------------

    def _verdict(self, case: _Case) -> Verdict:
        turns = (*((case.scan,) if case.scan is not None else ()), *case.zooms)
        length, rate = (case.video.num_frames, case.video.fps) if case.video else (0, 0.0)
        common: dict[str, Any] = {
            "turns": turns,
            "window": case.window,
            "readout": self.config.readout,
            "num_frames": length,
            "fps": rate,
            "provenance": self._provenance(turns),
        }
        if case.error or not turns:
            return Verdict(status=None, score=None, error=case.error or "not judged", **common)
        final = turns[-1]
        score, value = turn_score(final, self.config.readout), self._value(final)
        if value is None:
            value = 1.0 if final.status == "normal" else 0.0
        if self.config.aggregate == "joint" and len(turns) > 1:
            value = self._joint(turns, value)
        return Verdict(
            status=final.status,
            score=value,
            anomalies=tuple(a for t in case.zooms or turns for a in _native_anomalies(t)),
            log_odds=score.log_odds if score else None,
            forced=any(t.parse_error is not None for t in turns),
            **common,
        )

    def _joint(self, turns: Sequence[Turn], final: float) -> float:
        """1 - P1(abnormal) P2(abnormal), which does not jump from turn one's value to turn two's as Equation 7 does."""
        first = self._value(turns[0])
        return final if first is None else 1 - (1 - first) * (1 - final)

    def _value(self, turn: Turn) -> float | None:
        return turn_value(turn, self.config.readout, self.config.log_odds_temperature)

    def _provenance(self, turns: Sequence[Turn]) -> dict[str, Any]:
        config = self.config
        asked = {1: config.scan_fps, 2: config.zoom_fps}
        slower = {str(t.number): round(t.fps, 4) for t in turns if t.fps < asked.get(t.number, t.fps)}
        return {
            "model": self.backend.describe(),
            "backend": self.backend.name,
            "prompts": self.prompts.version,
            "readout": config.readout,
            "scan_fps": config.scan_fps,
            "zoom_fps": config.zoom_fps,
            "max_scan_frames": config.max_scan_frames,
            "min_zoom_frames": config.min_zoom_frames,
            "max_zoom_frames": config.max_zoom_frames,
            **({"thinned_to_fps": slower} if slower else {}),
            "frame_size": config.frame_size,
            "window_margin": config.window_margin,
            "crop": config.crop,
            "context": config.context,
            "num_turns": config.num_turns,
            "max_scan_tokens": config.max_scan_tokens,
            "max_zoom_tokens": config.max_zoom_tokens,
            "aggregate": config.aggregate,
            "reasoning": config.reasoning,
            "temperature": config.temperature,
            "log_odds_temperature": config.log_odds_temperature,
            "seed": config.seed,
            **({"demo_scale": True} if config.demo_scale else {}),
            "demo_scale": config.demo_scale,
            "seconds": round(sum(t.seconds for t in turns), 4),
            "cac_align": package_version(),
        }


def _at_true_rate(turn: Turn, case: _Case) -> Turn:
    """The turn with the rate its frames really have where they were thinned."""
    index, steps = turn.frame_indices, len(turn.frame_indices) - 1
    if steps < 1 or case.video is None:
        return turn
    stride, full = (index[-1] - index[0]) / steps, max(case.video.fps / turn.fps, 1.0)
    # Indices are rounded to whole frames, which moves the mean by less than one frame over all steps.
    return replace(turn, fps=case.video.fps / stride) if stride > full + 1 / steps + 1e-9 else turn


def _sound(turn: Turn, readout: str) -> Turn:
    """A turn without scores that nothing can be read from; the turn has failed where its verdict depends on one."""
    lost = {name: s.fault for name in ("score", "direct_score") if (s := getattr(turn, name)) is not None and s.fault}
    if not lost:
        return turn
    needed = "score" if readout == "paper" else "direct_score"
    rest = replace(
        turn,
        score=None if "score" in lost else turn.score,
        direct_score=None if "direct_score" in lost else turn.direct_score,
    )
    decides = needed in lost or (turn.status is None and rest.score is None and rest.direct_score is None)
    reason = turn.error or lost.get(needed) or next(iter(lost.values()))
    return replace(rest, status=None, error=reason) if decides else rest


def _decided(turn: Turn) -> Turn:
    """A turn without a report takes the likelier word; without probabilities either, it has no status and says so."""
    if turn.error or turn.status is not None:
        return turn
    score = turn.score or turn.direct_score
    if score is None:
        return replace(
            turn, error=f"the answer could not be parsed ({turn.parse_error}) and the backend gives no probabilities"
        )
    status: Status = "normal" if score.log_odds >= 0 else "abnormal"
    return replace(turn, status=status)


def _native_anomalies(turn: Turn) -> tuple[Anomaly, ...]:
    """A turn's anomalies with native frame indices in place of its own frame numbers."""
    index = turn.frame_indices
    return tuple(
        replace(
            a,
            frames=FrameRange(index[a.frames.start], index[a.frames.end]),
            boxes={index[k]: v for k, v in a.boxes.items()},
        )
        for a in (turn.report.anomalies if turn.report else ())
    )


def _spread(value: Any, count: int, name: str, scalar: Any) -> list[Any]:
    if value is None or isinstance(value, scalar):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{len(values)} {name} for {count} videos; give one for all, or one each")
    return values
