"""The two-turn judge: scan the whole video at 4 fps, look again at the suspicious window at 8 fps, only then decide
(section 3.4).

    normal in turn one                       -> normal, one call
    abnormal, window valid, turn two agrees  -> abnormal, with turn two's boxes
    abnormal, window valid, turn two denies  -> normal
    abnormal, no usable window               -> abnormal, ends after turn one

A video longer than one question may be is scanned in overlapping chunks, each judged like that by itself
(:mod:`reward_model.chunks`): abnormal if any chunk is, and its score is the lowest reward of its chunks.

Where windows far apart get a clip each (``crop="per_window"``), turn two is asked about each: the video is abnormal if
any confirms, and the turn that decides, the one with the lowest reward, is the last of its chunk.

A video that cannot be read, or a backend that cannot answer, gives a verdict without status and score, and says why in
``error``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from reward_model.active.judging import active_provenance, episode_parts, seek
from reward_model.backends.base import Backend
from reward_model.backends.provenance import judge_provenance
from reward_model.chunks import final_anomalies, main_window, scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.domain_check import DomainCheck, domain_fields
from reward_model.parsing import forced_prefix
from reward_model.prompts import PromptSet, load_prompts, wording_note
from reward_model.schema import Turn, TurnReport, Verdict, VerdictScore, at_true_rate, decided, sound
from reward_model.shipped import package_version
from reward_model.turns import (
    WORDS,
    TurnRequest,
    VideoView,
    merge_statuses,
    read_turn,
    scan_request,
    turn_score,
    turn_two_clips,
    turn_value,
    verdict_places,
    words_after,
    zoom_request,
)
from reward_model.video.clip import Video, VideoError, VideoLike, check_fps, load_video
from reward_model.video.framing import Framing

logger = logging.getLogger(__name__)
T = TypeVar("T")
Rates = float | Sequence[float] | None


@dataclass(frozen=True)
class _Chunk:
    """One question of turn one: a video and the native frames it shows; of an episode, the first and last it may."""

    view: VideoView
    grid: tuple[int, ...]


@dataclass(frozen=True)
class _Judged:
    """A chunk whose turns are done, or broke off: then ``error`` says why there is no verdict about it."""

    num_frames: int = 0
    fps: float = 0.0
    turns: tuple[Turn, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class _Suspect:
    """A chunk that turn one calls abnormal in a window, with what turn two is asked about."""

    view: VideoView
    request: TurnRequest
    scan: Turn
    report: TurnReport
    clips: list[tuple[int, ...]]

    def judged(self, zooms: Sequence[Turn] = (), error: str | None = None) -> _Judged:
        return _Judged(self.view.num_frames, self.view.fps, (self.scan, *zooms), error)


class Judge(Protocol):
    """Whoever gives verdicts as rewards and baselines do; what is measured is one, or a :class:`TwoTurnJudge`."""

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video, in order.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second of the videos, one number or one each; files bring their own.
        """
        ...


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
        self.config.check_bounds()
        self.prompts: PromptSet = load_prompts(self.config.prompts)
        self._domain = DomainCheck(backend, self.config.trained_on)
        self._said_thinned, self._release = False, package_version()
        if note := wording_note(self.prompts, self.config.prompt_version):
            logger.warning("%s", note)

    def judge(
        self,
        videos: Iterable[Any],
        prompts: Sequence[str | None] | str | None = None,
        *,
        fps: Rates = None,
        on_error: str = "verdict",
    ) -> list[Verdict]:
        """One verdict per video, in order; both turns run in batches.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second of the videos, one number or one each; files bring their own.
            on_error: ``"verdict"`` keeps going and reports an unreadable video in its verdict, ``"raise"`` raises.

        Raises:
            VideoError: if ``fps`` is not a positive number, or a video is unreadable and ``on_error="raise"``.
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
            batch = slice(start, start + self.config.batch_size)
            verdicts += self._judge_batch(items[batch], texts[batch], rates[batch], on_error)
        return verdicts

    def _judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[Any], rates: Sequence[Any], on_error: str
    ) -> list[Verdict]:
        strict = on_error == "raise"
        opened = [self._open(v, p, r, strict) for v, p, r in zip(videos, prompts, rates, strict=True)]
        parts = [self._chunks(case) if isinstance(case, VideoView) else [case] for case in opened]
        queue: list[_Chunk | _Judged] = [part for video in parts for part in video]
        judged: list[_Judged] = []
        for start in range(0, len(queue), self.config.batch_size):  # only these chunks' frames are held at once
            judged += self._judge_chunks(queue[start : start + self.config.batch_size], strict)
        done = iter(judged)
        return [self._verdict([next(done) for _ in video]) for video in parts]

    def _chunks(self, view: VideoView) -> list[_Chunk]:
        plan = episode_parts if self.config.policy == "active" else scan_grids
        return [_Chunk(view, grid) for grid in plan(view.num_frames, view.fps, self.config)]

    def _judge_chunks(self, chunks: Sequence[_Chunk | _Judged], strict: bool) -> list[_Judged]:
        if self.config.policy == "active":
            return _each(_Chunk, chunks, lambda fresh: self._seek(fresh, strict))
        scanned = _each(_Chunk, chunks, lambda fresh: self._scan(fresh, strict))
        return _each(_Suspect, scanned, lambda suspects: self._zoom(suspects, strict))

    def _open(self, video: VideoLike, prompt: str | None, fps: float | None, strict: bool) -> VideoView | _Judged:
        try:
            return self._view(load_video(video, fps), prompt or "")
        except MemoryError:
            return _Judged(error="not enough memory to read this video; cut it, or scale it down")
        except VideoError as error:
            if strict or (fps is None and "fps is required" in str(error)):
                raise
            return _Judged(error=str(error))

    def _view(self, video: Video, prompt: str) -> VideoView:
        framing = Framing(video.size, self.config.frame_size, self.config.frame_fit)

        def take(indices: Sequence[int]) -> np.ndarray:
            try:
                return framing.pad(video.take(indices, framing.inner))
            except MemoryError as error:
                said = str(error) or f"not enough memory for {len(indices)} frames; lower max_scan_frames"
                raise MemoryError(said) from error

        return VideoView(video.num_frames, video.fps, take, prompt, framing, video.drawn_size)

    # --- turn one -----------------------------------------------------------------------------------------------------

    def _scan(self, chunks: Sequence[_Chunk], strict: bool) -> list[_Suspect | _Judged]:
        requests = [_asked(partial(scan_request, c.view, c.grid, self.config, self.prompts), strict) for c in chunks]
        asked = [(c.view, r) for c, r in zip(chunks, requests, strict=True) if isinstance(r, TurnRequest)]
        turns = self._ask([r for _, r in asked])
        answers = iter(self._domain.familiar([v for v, _ in asked], [r for _, r in asked], turns))
        return [
            self._scanned(chunk.view, request, next(answers))
            if isinstance(request, TurnRequest)
            else _Judged(chunk.view.num_frames, chunk.view.fps, error=request)
            for chunk, request in zip(chunks, requests, strict=True)
        ]

    def _scanned(self, view: VideoView, request: TurnRequest, turn: Turn) -> _Suspect | _Judged:
        scan, length, rate = at_true_rate(turn, view.fps), view.num_frames, view.fps
        if scan.fps < min(turn.fps, rate):
            self._say_thinned(length / rate, scan.fps)
        if scan.status is None:
            return _Judged(length, rate, (scan,), error=scan.error)
        report = scan.report
        if report is None or report.window is None:
            return _Judged(length, rate, (scan,))
        if scan.early:
            return _Judged(length, rate, (scan,))
        clips = turn_two_clips(report, scan.frame_indices, length, rate, self.config)
        suspect = _Suspect(view, request, scan, report, clips)
        return suspect if clips else suspect.judged()

    def _say_thinned(self, seconds: float, rate: float) -> None:
        """Says once what a long video loses; every verdict carries it in its turn and its provenance."""
        if self._said_thinned:
            return
        self._said_thinned = True
        logger.warning(
            "a video of %.0f s is scanned at %.2g frames per second instead of %g (max_scan_frames=%s): anomalies "
            "shorter than %.1f s can be missed. Judge long videos with long_videos='chunks', or raise max_scan_frames",
            seconds, rate, self.config.scan_fps, self.config.max_scan_frames, 1 / rate,
        )  # fmt: skip

    # --- turn two -----------------------------------------------------------------------------------------------------

    def _zoom(self, suspects: Sequence[_Suspect], strict: bool) -> list[_Judged]:
        """Asks about all clips of all suspects at once."""
        asked = [[self._zoom_request(s, clip, strict) for clip in s.clips] for s in suspects]
        answers = iter(self._ask([r for requests in asked for r in requests if isinstance(r, TurnRequest)]))
        judged = []
        for suspect, requests in zip(suspects, asked, strict=True):
            turns = [next(answers) for request in requests if isinstance(request, TurnRequest)]
            faults = [request for request in requests if isinstance(request, str)]
            faults += [f"turn two: {turn.error}" for turn in turns if turn.status is None]
            zooms = sorted((at_true_rate(t, suspect.view.fps) for t in turns), key=self._decides)
            judged.append(suspect.judged(zooms, faults[-1] if faults else None))
        return judged

    def _zoom_request(self, suspect: _Suspect, clip: tuple[int, ...], strict: bool) -> TurnRequest | str:
        view, request, answer, report = suspect.view, suspect.request, suspect.scan.text, suspect.report
        ask = partial(zoom_request, view, request, answer, report, clip, self.config, self.prompts)
        return _asked(ask, strict)

    def _decides(self, turn: Turn) -> tuple[bool, float]:
        """Orders the turns about several clips, the one that decides last."""
        value = self._value(turn)
        return turn.status == "abnormal", 0.0 if value is None else -value

    # --- look after look ----------------------------------------------------------------------------------------------

    def _seek(self, chunks: Sequence[_Chunk], strict: bool) -> list[_Judged]:
        """An episode about each chunk."""
        started = time.perf_counter()
        found = seek([(c.view, c.grid) for c in chunks], self.backend, self.config, strict=strict)
        asked = [conversation for one in found for conversation in one.conversations]
        turns = iter(self._settled(asked, [turn for one in found for turn in one.turns], started))
        judged = []
        for chunk, one in zip(chunks, found, strict=True):
            own = [next(turns) for _ in one.turns]
            if own:  # of what it sees nothing is known: domain.safetensors holds the signs of two-turn scans
                own[0] = replace(own[0], unlike_training=self._domain.objections(chunk.view))
            judged.append(_Judged(chunk.view.num_frames, chunk.view.fps, tuple(own), one.error or own[-1].error))
        return judged

    # --- both turns ---------------------------------------------------------------------------------------------------

    def _ask(self, requests: Sequence[TurnRequest]) -> list[Turn]:
        """Runs one turn for all videos in a batch and scores the verdict at the position the readout calls for."""
        if not requests:
            return []
        started = time.perf_counter()
        if self.config.cascade != "off":
            from reward_model.backends.cascade import ask_in_cascade

            return ask_in_cascade(requests, self.backend, self.config, read=self._read, settle=self._settled)
        answers = self._answers(requests)
        turns = [self._read(request, answer) for request, answer in zip(requests, answers, strict=True)]
        return self._settled([r.conversation for r in requests], turns, started)

    def _settled(self, conversations: Sequence[Conversation], turns: Sequence[Turn], started: float) -> list[Turn]:
        """Answered turns, scored and decided, with their share of the seconds since ``started``."""
        turns = self._scored(conversations, turns)
        seconds = (time.perf_counter() - started) / max(1, len(turns))
        return [replace(decided(sound(turn, self.config.readout)), seconds=seconds) for turn in turns]

    def _answers(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        config = self.config
        if not config.reasoning:
            return [Completion(forced_prefix()) for _ in requests]
        sampling = Sampling(max(r.max_new_tokens for r in requests), config.temperature, seed=config.seed)
        return self.backend.generate([r.conversation for r in requests], sampling)

    def _read(self, request: TurnRequest, answer: Completion) -> Turn:
        rate = self.config.scan_fps if request.number == 1 else self.config.zoom_fps
        turn = Turn(
            request.number, request.indices, rate, answer.text, error=answer.error, num_tokens=answer.num_tokens
        )
        if turn.error or not self.config.reasoning:
            return turn
        cut_after = None if answer.finished else answer.num_tokens
        how = (len(request.indices), self.config, request.framing)
        reading = read_turn(turn.text, turn.number, *how, cut_after=cut_after, times=request.times)
        reason = reading.error.reason if reading.error is not None else None
        return replace(turn, report=reading.report, status=reading.status, parse_error=reason)

    def _scored(self, conversations: Sequence[Conversation], turns: Sequence[Turn]) -> list[Turn]:
        """The turns with the probabilities of both words, wherever they are wanted."""
        config = self.config
        places = verdict_places(turns, config.readout, all_readouts=config.all_readouts, reasoning=config.reasoning)
        after = self._score(conversations, turns, places.after)
        before: Sequence[VerdictScore | None] = [turn.direct_score for turn in turns]  # a cascade has read it first
        if not any(before) or any(words_after(prefix) != WORDS for prefix in places.before or ()):
            before = self._score(conversations, turns, places.before)
        scores = [s and replace(s, forced=forced) for s, forced in zip(after, places.forced, strict=True)]
        return [replace(t, score=a, direct_score=b) for t, a, b in zip(turns, scores, before, strict=True)]

    def _score(
        self, conversations: Sequence[Conversation], turns: Sequence[Turn], prefixes: Sequence[str] | None
    ) -> list[VerdictScore | None]:
        """Scores of all answered turns in one batch; the same conversations again, so the backend can reuse their
        vision features. None for turns without an answer, and for all where no ``prefixes`` are given.
        """
        scores: list[VerdictScore | None] = [None] * len(turns)
        alive = [k for k, t in enumerate(turns) if not t.error] if prefixes is not None else []
        if prefixes is None or not alive:
            return scores
        scored = self.backend.score([conversations[k] for k in alive], [prefixes[k] for k in alive])
        for k, score in zip(alive, scored, strict=True):
            scores[k] = score
        return scores

    # --- the verdict --------------------------------------------------------------------------------------------------

    def _verdict(self, parts: Sequence[_Judged]) -> Verdict:
        """The verdict of a video's chunks; of one chunk in a video that was scanned at once."""
        turns = tuple(turn for part in parts for turn in part.turns)
        judged = [part.turns for part in parts if part.error is None]
        status = merge_statuses([part.turns[-1].status if part.error is None else None for part in parts])
        common: dict[str, Any] = {
            "turns": turns,
            # The window of the verdict is the one turn one named, whatever turn two is shown around it.
            "window": main_window(turns, self.config.readout),
            "readout": self.config.readout,
            "num_frames": parts[0].num_frames,
            "fps": parts[0].fps,
            "provenance": self._provenance(turns, parts[0].fps),
            **domain_fields(turns),
        }
        if status is None:
            number, fault = next((k, part.error) for k, part in enumerate(parts, 1) if part.error is not None)
            error = fault if len(parts) == 1 else f"chunk {number} of {len(parts)}: {fault}"
            return Verdict(status=None, score=None, error=error, **common)
        value, log_odds = min(map(self._reward, judged), key=lambda reward: reward[0])
        return Verdict(
            status=status,
            score=value,
            anomalies=final_anomalies([turn for chunk in judged for turn in chunk]),
            log_odds=log_odds,
            forced=any(t.parse_error is not None for t in turns),
            **common,
        )

    def _reward(self, turns: Sequence[Turn]) -> tuple[float, float | None]:
        """Reward of a chunk, and the log-odds it comes from."""
        final = turns[-1]
        score, value = turn_score(final, self.config.readout), self._value(final)
        if value is None:
            value = 1.0 if final.status == "normal" else 0.0
        if self.config.aggregate == "joint" and len(turns) > 1:
            value = self._joint(turns, value)
        return value, score.log_odds if score else None

    def _joint(self, turns: Sequence[Turn], final: float) -> float:
        """1 - P1(abnormal) P2(abnormal), which does not jump from turn one's value to turn two's as Equation 7 does."""
        first = self._value(turns[0])
        # A value is P(normal), so 1 - value is P(abnormal); the video is bad if both turns find it so.
        return final if first is None else 1 - (1 - first) * (1 - final)

    def _value(self, turn: Turn) -> float | None:
        return turn_value(turn, self.config.readout, self.config.log_odds_temperature)

    def _provenance(self, turns: Sequence[Turn], fps: float) -> dict[str, Any]:
        known = judge_provenance(self.backend, self.config, self.prompts.version, turns, fps, self._release)
        return {**known, **active_provenance(self.config)}


def _each(kind: type[T], cases: Sequence[Any], work: Callable[[list[T]], Sequence[Any]]) -> list[Any]:
    """The cases in order, those of a kind as ``work`` leaves them; it is given all of them at once."""
    done = iter(work([case for case in cases if isinstance(case, kind)]))
    return [next(done) if isinstance(case, kind) else case for case in cases]


def _asked(make: Callable[[], TurnRequest], strict: bool) -> TurnRequest | str:
    """A question, or the reason why its frames cannot be shown; ``strict`` raises that reason."""
    try:
        return make()
    except (VideoError, MemoryError) as error:
        if strict and isinstance(error, VideoError):
            raise
        return str(error)


def _spread(value: Any, count: int, name: str, scalar: type | tuple[type, ...]) -> list[Any]:
    if value is None or isinstance(value, scalar):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{len(values)} {name} for {count} videos; give one for all, or one each")
    return values
