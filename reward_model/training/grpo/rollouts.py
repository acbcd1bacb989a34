"""Rollouts of stage 3: the judge's two turns as sampled token ids (paper, sections 3.2 and C.1).

Questions come from :mod:`reward_model.turns`, as those of the judge do: the same grids, window, wording and parser.
Both turns of all groups run as batches; frames and prompts that several rollouts share
are built once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.parsing import REGION_T, ParseError
from reward_model.prompts import PromptSet, load_prompts
from reward_model.rewards import ANNOTATED, Need, Rollout
from reward_model.schema import Status, TurnReport, VideoAnnotation
from reward_model.training.grpo.rows import EncodedPrompt, Pictures, PromptBuilder, SequenceRow, as_read
from reward_model.training.grpo.sampler import Generator, Sampled
from reward_model.turns import (
    TurnRequest,
    VideoView,
    cut_reason,
    merge_clips,
    merge_statuses,
    passed_reasoning,
    read_turn,
    scan_request,
    turn_two_clips,
    zoom_request,
)
from reward_model.video.clip import sample_indices
from reward_model.video.framing import Framing

#: Ways in which a turn can be invalid, as they are counted.
INVALID = ("unparsable", "schema", "window", "truncated")
#: Stands for turn one's answer while the chat around it is made into text.
_ANSWER = "\N{WHITE SQUARE}answer\N{WHITE SQUARE}"


@dataclass(frozen=True)
class GrpoSample:
    """The truth about a video, and how to get its frames: native indices -> (N, H, W, 3) uint8.

    ``grid``: native frames of turn one, where the video is too long for one question and this is one of its chunks (the
    truth is then that about the chunk); None: the judge's one grid of the whole video. ``given``: what the truth tells;
    what it does not tell is not read from it.
    """

    truth: VideoAnnotation
    frames: Callable[[Sequence[int]], np.ndarray]
    grid: tuple[int, ...] | None = None
    given: frozenset[Need] = ANNOTATED


@dataclass(frozen=True)
class TurnDraw:
    """One sampled answer. ``report`` is None if it is invalid, then ``invalid`` names the kind (:data:`INVALID`),
    ``reason`` says why, and ``legible`` is the status that counts all the same (``lenient_invalid``). ``indices`` are
    the native frames shown.
    """

    ids: tuple[int, ...]
    text: str
    indices: tuple[int, ...]
    report: TurnReport | None = None
    invalid: str | None = None
    reason: str = ""
    legible: Status | None = None


@dataclass
class RolloutRecord:
    """Both turns of one rollout, and the rows they are trained on.

    ``zooms`` has one entry; none if the rollout ended after turn one, several if each window got its own clip.
    ``error``: a technical failure (frames that cannot be read); such a rollout has no reward.
    """

    group: int
    scan: TurnDraw | None = None
    zooms: list[TurnDraw] = field(default_factory=list)
    rows: list[SequenceRow] = field(default_factory=list)
    unseen_indices: tuple[int, ...] = ()
    error: str | None = None

    @property
    def num_tokens(self) -> int:
        """``|y|``: sampled tokens of both turns."""
        return sum(r.num_tokens for r in self.rows)

    def outcome(self) -> Rollout:
        """The rollout as the reward sees it."""
        assert self.scan is not None
        report, indices = merge_clips([(z.report, z.indices) for z in self.zooms])
        said = [z.report.status if z.report else z.legible for z in self.zooms]
        legible = (self.scan.legible, merge_statuses(said))
        scan, unseen = self.scan, self.unseen_indices
        return Rollout(scan.report, report, bool(self.zooms), scan.indices, indices, unseen, legible)


class _Case:
    """One video on its way through both turns. Frames and prompts that several rollouts share are built once."""

    def __init__(self, sample: GrpoSample, builder: PromptBuilder, config: JudgeConfig, wording: PromptSet) -> None:
        self.sample, self.builder, self.config, self.wording = sample, builder, config, wording
        self._shown: dict[tuple[int, ...], Pictures] = {}
        self._zooms: dict[tuple[str, tuple[int, ...]], tuple[EncodedPrompt, TurnRequest]] = {}
        truth = sample.truth
        self.framing = Framing((truth.height, truth.width), config.frame_size, config.frame_fit)
        self.view = VideoView(
            truth.num_frames, truth.fps, lambda n: self.pictures(tuple(n)).frames, truth.prompt, self.framing
        )
        self.scan = scan_request(self.view, self._grid(), config, wording)
        self.prompt = builder.prompt(self.scan.conversation, [self.pictures(self.scan.indices)])

    def _grid(self) -> tuple[int, ...]:
        truth = self.sample.truth
        if self.sample.grid is not None:
            return self.sample.grid
        grids = scan_grids(truth.num_frames, truth.fps, self.config)
        if len(grids) > 1:
            raise ValueError(
                f"{truth.video_id}: {truth.num_frames} frames are scanned in {len(grids)} chunks "
                f"(max_scan_frames={self.config.max_scan_frames}); give the sample the grid of one of them"
            )
        return grids[0]

    def pictures(self, indices: tuple[int, ...]) -> Pictures:
        """The frames as they are shown, one object for equal ``indices``.

        Raises:
            ValueError, OSError, RuntimeError: if they cannot be read.
        """
        if indices not in self._shown:
            frames = self.sample.frames(indices)
            if len(frames) != len(indices):
                raise ValueError(f"{self.sample.truth.video_id}: asked for {len(indices)} frames, got {len(frames)}")
            native = (frames[0].shape[0], frames[0].shape[1])
            self._shown[indices] = self.builder.pictures(replace(self.framing, native=native).show(frames))
        return self._shown[indices]

    def zoom(self, report: TurnReport, clip: tuple[int, ...]) -> tuple[EncodedPrompt, TurnRequest]:
        """Turn two about a clip, as a new chat; the same objects for equal questions."""
        key = passed_reasoning(report, self.config), clip
        if key not in self._zooms:
            request = self.zoom_request(report, clip)
            self._zooms[key] = self.builder.prompt(request.conversation, [self.pictures(clip)]), request
        return self._zooms[key]

    def zoom_request(self, report: TurnReport, clip: tuple[int, ...], answer: str = "") -> TurnRequest:
        return zoom_request(self.view, self.scan, answer, report, clip, self.config, self.wording)


class TwoTurnRollouts:
    """Draws rollouts.

    Args:
        builder: makes prompts of conversations.
        generator: draws answers.
        config: how this checkpoint asks (``judge.json``): rates, limits, margin and number of clips, and what turn two
            sees beside its clip.
    """

    def __init__(self, builder: PromptBuilder, generator: Generator, config: JudgeConfig) -> None:
        self.builder, self.generator, self.config = builder, generator, config
        self.wording = load_prompts(config.prompts)
        #: Seconds of the last :meth:`draw`: ``turn_one``, ``crop``, ``turn_two``.
        self.seconds: dict[str, float] = {}

    def draw(self, samples: Sequence[GrpoSample], num_generations: int) -> list[list[RolloutRecord]]:
        """``num_generations`` rollouts of each sample, in order."""
        clock = _Clock()
        groups = [[RolloutRecord(g) for _ in range(num_generations)] for g in range(len(samples))]
        cases: dict[int, _Case] = {}
        for number, sample in enumerate(samples):
            try:
                cases[number] = self._open(sample)
            except (ValueError, OSError, RuntimeError) as error:
                for record in groups[number]:
                    record.error = f"turn one: {error}"
        limit = max((case.scan.max_new_tokens for case in cases.values()), default=1)
        answers = self.generator([c.prompt for c in cases.values()], [num_generations] * len(cases), limit)
        for (number, case), drawn in zip(cases.items(), answers, strict=True):
            for k, (record, answer) in enumerate(zip(groups[number], drawn, strict=True)):
                record.scan = self._read(answer, case.scan, case.framing)
                rollout = number * num_generations + k
                record.rows = [SequenceRow.answer(case.prompt, answer.ids, rollout, answer.log_probs)]
        self.seconds["turn_one"] = clock.lap()
        asked = [ask for number, case in cases.items() for record in groups[number] for ask in self._crop(case, record)]
        self.seconds["crop"] = clock.lap()
        self._zoom(asked)
        self.seconds["turn_two"] = clock.lap()
        return groups

    def _open(self, sample: GrpoSample) -> _Case:
        return _Case(sample, self.builder, self.config, self.wording)

    # --- turn two -----------------------------------------------------------------------------------------------------

    def _crop(self, case: _Case, record: RolloutRecord) -> list[_Ask]:
        """Clip of turn two for this rollout; None if it ended after turn one."""
        report = record.scan.report if record.scan else None
        if report is None:
            return []
        truth = case.sample.truth
        clips = turn_two_clips(report, case.scan.indices, truth.num_frames, truth.fps, self.config)
        if not clips:
            return []
        shown = {n for clip in clips for n in range(clip[0], clip[-1] + 1)}
        grid = sample_indices(truth.num_frames, truth.fps, self.config.zoom_fps)
        asked = case.sample.grid or (0, truth.num_frames - 1)  # what lies outside of a chunk is another's
        record.unseen_indices = tuple(n for n in grid if n not in shown and asked[0] <= n <= asked[-1])
        ask = self._ask_on if self.config.context == "chat" else self._ask
        try:
            return [ask(case, record, report, clip) for clip in clips]
        except (ValueError, OSError, RuntimeError) as error:
            record.error = f"turn two: {error}"
            return []

    def _ask(self, case: _Case, record: RolloutRecord, report: TurnReport, clip: tuple[int, ...]) -> _Ask:
        return _Ask(record, *case.zoom(report, clip), case.framing)

    def _ask_on(self, case: _Case, record: RolloutRecord, report: TurnReport, clip: tuple[int, ...]) -> _Ask:
        """Turn two as the next message of the chat. Turn one stands there as the model read it, id by id."""
        pictures = case.pictures(clip)
        request = case.zoom_request(report, clip, answer=_ANSWER)
        between = self.builder.encode(self._between(request), [pictures])
        first = record.rows[0]
        read = np.where(first.mask, as_read(first.ids, self.builder.processor), first.ids)
        prompt = EncodedPrompt(np.concatenate([read, between]), (*first.pictures, pictures))
        return _Ask(record, prompt, request, case.framing, (between, pictures))

    def _between(self, request: TurnRequest) -> str:
        """Tokens of the chat template between turn one's end token and turn two's first."""
        text = self.builder.processor.apply_chat_template(
            [message.to_chat() for message in request.conversation], add_generation_prompt=True, tokenize=False
        )
        return text.split(_ANSWER, 1)[1].removeprefix(self.builder.processor.tokenizer.eos_token)

    def _zoom(self, asked: list[_Ask]) -> None:
        unique = list({id(a.prompt): a.prompt for a in asked}.values())
        users = {id(p): [a for a in asked if a.prompt is p] for p in unique}
        limit = max((ask.request.max_new_tokens for ask in asked), default=1)
        drawn = self.generator(unique, [len(users[id(p)]) for p in unique], limit)
        for prompt, answers in zip(unique, drawn, strict=True):
            for ask, answer in zip(users[id(prompt)], answers, strict=True):
                ask.record.zooms.append(self._read(answer, ask.request, ask.framing))
                self._add_row(ask, answer)

    @staticmethod
    def _add_row(ask: _Ask, answer: Sampled) -> None:
        record = ask.record
        if ask.continued is None:
            record.rows.append(SequenceRow.answer(ask.prompt, answer.ids, record.rows[0].rollout, answer.log_probs))
            return
        first, (between, pictures) = record.rows[0], ask.continued
        if len(record.zooms) == 1:  # turn one is trained once, in the row that continues it
            record.rows = [first.then(between, pictures, answer.ids, answer.log_probs)]
            return
        length = len(ask.prompt.ids) - len(between)
        silent = SequenceRow(ask.prompt.ids[:length], np.zeros(length, bool), first.pictures[:1], first.rollout)
        record.rows.append(silent.then(between, pictures, answer.ids, answer.log_probs))

    # --- both turns ---------------------------------------------------------------------------------------------------

    def _read(self, answer: Sampled, asked: TurnRequest, framing: Framing) -> TurnDraw:
        tokenizer = self.builder.processor.tokenizer
        kept = answer.ids[:-1] if answer.finished else answer.ids
        text = tokenizer.decode(list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        draw = TurnDraw(answer.ids, text, asked.indices)
        cut_after = None if answer.finished else len(answer.ids)
        how = (len(asked.indices), self.config, framing)
        reading = read_turn(text, asked.number, *how, cut_after=cut_after, times=asked.times)
        if reading.error is None:
            return replace(draw, report=reading.report)
        draw = replace(draw, invalid=invalid_kind(reading.error), reason=reading.error.reason, legible=reading.status)
        return draw if cut_after is None else replace(draw, invalid="truncated", reason=cut_reason(cut_after))


@dataclass
class _Ask:
    """One question of turn two; ``continued`` holds template ids and clip where it continues the chat."""

    record: RolloutRecord
    prompt: EncodedPrompt
    request: TurnRequest
    framing: Framing
    continued: tuple[np.ndarray, Pictures] | None = None


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed


def invalid_kind(error: ParseError) -> str:
    """``unparsable`` (no single JSON object), ``window`` (its time region) or ``schema`` (anything else)."""
    if error.reason.startswith(REGION_T):
        return "window"
    if error.reason.startswith(("the answer holds", "the answer is")):
        return "unparsable"
    return "schema"
