"""Models that answer a question about one video with a word: AIGC detectors, and comparing models brought to one video.

Frames, their labels, the order of the message, the names a model was trained to use, sampling and the form of the
answer follow the public descriptions; the sentences are ours. None of it has been run on the published weights here.

- ``skyra`` (arXiv 2512.15693): 16 frames, each after its time, a list of artifact categories, ``Fake`` or ``Real``.
- ``videoveritas`` (arXiv 2602.08828): frames at 3 fps, free thought, ``real`` or ``fake``; drawn at temperature 0.7.
- ``unified-think`` (arXiv 2505.03318): trained on pairs alone, so the question about one video is a conversion of ours:
  8 frames, its three dimensions rated in ``<think>``, a verdict in ``<answer>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.backends.base import Backend
from reward_model.conversation import Completion, Conversation, Message, Sampling
from reward_model.digests import text_digest
from reward_model.prompts import clean_line
from reward_model.schema import Status, Verdict
from reward_model.unified.protocols import ScoreError, even_indices, last_answer, repeated_indices
from reward_model.unified.score import ask_in_batches
from reward_model.video.clip import Video, VideoError, load_video, sample_indices

if TYPE_CHECKING:
    from reward_model.judge import Rates


@dataclass(frozen=True)
class StatusProtocol:
    """One way of asking for a word.

    Attributes:
        system: the system message; "" for none.
        opening: text before the frames.
        label: text before each frame, with ``{seconds}``.
        question: text after the frames, with ``{caption}`` where the model is shown the prompt.
        pick: frame indices of a video, by its number of frames and its frames per second.
        words: what the answer's word means, in lower case.
        sampling: sampling settings of the answer.
    """

    name: str
    question: str
    pick: Callable[[int, float], list[int]]
    words: dict[str, Status]
    sampling: Sampling
    system: str = ""
    opening: str = ""
    label: str = ""

    def conversation(self, video: Video, caption: str = "") -> Conversation:
        """The request about a video, as frames between text."""
        indices = self.pick(video.num_frames, video.fps)
        content: list[str | np.ndarray] = [self.opening] if self.opening else []
        for index, frame in zip(indices, video.take(indices), strict=True):
            content += [self.label.format(seconds=index / video.fps), frame] if self.label else [frame]
        content.append(self.question.replace("{caption}", clean_line(caption)))
        user = Message("user", tuple(content))
        return (Message("system", (self.system,)), user) if self.system else (user,)

    def read(self, text: str) -> Status:
        """Status stated by an answer.

        Raises:
            ScoreError: if there is no complete ``<answer>``, or it does not hold exactly one of the words.
        """
        return read_word(last_answer(text), self.words)


def read_word(answer: str, words: dict[str, Status]) -> Status:
    """The status of the one known word in an answer, in any case.

    Raises:
        ScoreError: none of the words is there, or several with different meanings are.
    """
    found = {words[word] for word in re.findall(r"[a-z]+", answer.lower()) if word in words}
    if len(found) != 1:
        raise ScoreError(f"the answer {answer[:40]!r} holds {'no' if not found else 'more than one'} verdict")
    return found.pop()


class StatusJudge:
    """A model asked by a :class:`StatusProtocol`, as a judge of the tables. It has a status and no score.

    Args:
        backend: who answers.
        protocol: one of :data:`STATUS_PROTOCOLS`, or its name.
        batch_size: videos asked about at once; None: all.

    Raises:
        ValueError: if there is no protocol of that name.
    """

    def __init__(self, backend: Backend, protocol: str | StatusProtocol, *, batch_size: int | None = None) -> None:
        if isinstance(protocol, str) and protocol not in STATUS_PROTOCOLS:
            raise ValueError(f"protocol={protocol!r} must be one of {', '.join(STATUS_PROTOCOLS)}")
        self.backend, self.batch_size = backend, batch_size
        self.protocol = STATUS_PROTOCOLS[protocol] if isinstance(protocol, str) else protocol

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video; without a readable answer it has no status and says why."""
        opened = open_videos(videos, fps)
        texts = [prompts] * len(videos) if prompts is None or isinstance(prompts, str) else list(prompts)
        asked = [
            v if isinstance(v, str) else self.protocol.conversation(v, t or "")
            for v, t in zip(opened, texts, strict=True)
        ]
        ready = [c for c in asked if not isinstance(c, str)]
        answers = ask_in_batches(self.backend, ready, self.protocol.sampling, self.batch_size)
        return [self._verdict(c) if isinstance(c, str) else self._verdict(next(answers)) for c in asked]

    def describe(self) -> dict[str, Any]:
        """Provenance of the model and the protocol."""
        p = self.protocol
        wording = text_digest("\0".join((p.system, p.opening, p.label, p.question)))[:8]
        drawn = {"temperature": p.sampling.temperature, "max_new_tokens": p.sampling.max_new_tokens}
        return {**self.backend.describe(), "protocol": p.name, "wording": wording, **drawn}

    def _verdict(self, answer: Completion | str) -> Verdict:
        by = self.describe()
        if isinstance(answer, str) or answer.error:
            error = answer if isinstance(answer, str) else answer.error
            return Verdict(None, None, readout=self.protocol.name, error=error, provenance=by)
        try:
            status = self.protocol.read(answer.text)
        except ScoreError as error:
            return Verdict(None, None, readout=self.protocol.name, error=str(error), provenance=by)
        return Verdict(status, None, readout=self.protocol.name, provenance=by)


def open_videos(videos: Sequence[Any], fps: Rates) -> list[Video | str]:
    """The videos, or the reason one cannot be read; ``fps`` is one number or one each."""
    rates = list(fps) if isinstance(fps, Sequence) else [fps] * len(videos)
    opened: list[Video | str] = []
    for video, rate in zip(videos, rates, strict=True):
        try:
            opened.append(load_video(video, rate))
        except VideoError as error:
            opened.append(str(error))
    return opened


#: The categories Skyra's checkpoints name in their reasoning, by group.
_SKYRA_CATEGORIES = {
    "low-level traces": (
        "Structure Anomaly, Texture Jittering, Unnatural Blur, Color Over-saturation, Lighting Inconsistency, "
        "Camera Motion Inconsistency"
    ),
    "violated laws": (
        "Abnormal Object Disappearance, Abnormal Object Appearance, Person Identity Inconsistency, General Object "
        "Identity Inconsistency, Shape Distortion, Abnormal Rigid-Body Crossing, Abnormal Multi-Object Merging, "
        "Abnormal Object Splitting, General Interaction Anomaly, Unnatural Human Movement, Unnatural Animal Movement, "
        "Unnatural General Object Movement, Violation of Physical Law, Violation of General Causality Law, Abnormal "
        "Human Body Structure, Abnormal General Object Structure, Text Distortion"
    ),
}

SKYRA = StatusProtocol(
    name="skyra",
    system=(
        "You analyse videos and judge from their frames whether they are real or made by a model. Think inside "
        "<think></think>: say what the video shows, then look for traces step by step and in order of time. Tag every "
        "trace you find, or rule out, in this form:\n"
        "<type>category</type> in <t>[start, end]</t> at <bbox>[x1, y1, x2, y2]</bbox>\n"
        "with a category of this list:\n"
        + "\n".join(f"{group}: {names}" for group, names in _SKYRA_CATEGORIES.items())
        + "\nThen give one word inside <answer></answer>: Fake or Real."
    ),
    opening="The frames of the video, each after its time:\n",
    label="[T={seconds:.2f}s] ",
    question="\nAnalyse the frames, decide whether the video is real or fake, and give your reasons.",
    pick=lambda num_frames, fps: even_indices(num_frames, 16),
    words={"fake": "abnormal", "real": "normal"},
    sampling=Sampling(8192),
)

VIDEOVERITAS = StatusProtocol(
    name="videoveritas",
    system=(
        "You are an expert in analysing videos. Think as deeply as a careful person would; question and check your own "
        "reasoning. End with a verdict inside <answer></answer>."
    ),
    question="Is the video real or fake?",
    pick=lambda num_frames, fps: sample_indices(num_frames, fps, 3.0),
    words={"fake": "abnormal", "real": "normal"},
    sampling=Sampling(4096, temperature=0.7, seed=0),
)

UNIFIED_THINK = StatusProtocol(
    name="unified-think",
    question=(
        "The images above are frames of a generated video, in order. It was made from the caption at the end.\n"
        "First think, between <think> and </think>: rate the video from 1 to 10 in semantic consistency, temporal "
        "coherence and authenticity, and in up to two more dimensions of your choice, each as\n"
        "N. dimension:\n Video (x/10) - reason\n"
        "and add the ratings up as\nTotal score: x+x+x=total\n"
        "Then decide whether a part of the video is anomalous: a thing, a person, a movement, the physics or the "
        "writing. Write <answer>normal</answer> or <answer>abnormal</answer>, and nothing else.\n"
        "Caption: [{caption}]"
    ),
    pick=lambda num_frames, fps: repeated_indices(num_frames),
    words={"normal": "normal", "abnormal": "abnormal"},
    sampling=Sampling(4096),
)

STATUS_PROTOCOLS = {p.name: p for p in (SKYRA, VIDEOVERITAS, UNIFIED_THINK)}
