"""Referees that are models: a checkpoint in this process, or one behind a server. They see two pictures and a phrase.

A grade is the expected one under the probabilities of 0, 1 and 2 where the backend tells them (as Equation 7 does with
the verdict words), else the one that is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.backends.base import Backend, BackendError, Choosing, WordScores
from reward_model.conversation import Conversation, Sampling
from reward_model.digests import model_fingerprint
from reward_model.evidence.claims import Claim
from reward_model.evidence.referee import Opinion, Question
from reward_model.evidence.score import soft_score
from reward_model.prompts.referee import (
    AFTER_LOCALISATION,
    AFTER_RELEVANCE,
    GRADES,
    RefereePrompts,
    load_referee_prompts,
    localisation_prefix,
    parse_grades,
    relevance_prefix,
)
from reward_model.rewards import Need
from reward_model.schema import AnomalyType, Box
from reward_model.video.crops import enlarged, marked
from reward_model.video.framing import FrameFit, Framing

#: The crop is wider and higher than the box by this share on each side: 1.2 times as large.
MARGIN = 0.1
#: Longer side of the crop in pixels, where frames are shown as they are.
CROP_SIDE = 384
#: Tokens of a written answer.
MAX_TOKENS = 64
#: The least probability that the grades must hold together: below it the model would write something else.
MIN_P_GRADES = 1e-3


class ModelReferee:
    """A model behind any backend as a referee.

    Args:
        backend: the model.
        wording: ``"paper"`` or ``"compact"``.
        frame_size, frame_fit: the square both pictures are shown in; None: the frame as it is.
        fingerprint: what tells its opinions from those of another model.
        batch_size: questions asked at once.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(
        self,
        backend: Backend,
        *,
        wording: str = "paper",
        frame_size: int | None = None,
        frame_fit: FrameFit = "squeeze",
        fingerprint: str = "",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.backend, self.prompts = backend, load_referee_prompts(wording)
        self.frame_size, self.frame_fit = frame_size, frame_fit
        self.fingerprint, self.batch_size = fingerprint, batch_size

    def describe(self) -> dict[str, Any]:
        shown = {"frame_size": self.frame_size, "frame_fit": self.frame_fit} if self.frame_size else {}
        return {"referee": self.fingerprint, "prompts": self.prompts.version, **shown}

    def probe(self) -> None:
        """Asks one question, so that a model that cannot be asked is found out before anything costly.

        Raises:
            BackendError: if there is no answer.
        """
        claim = Claim(AnomalyType.OBJECT, "the square", Box(250, 250, 750, 750), 0, 0.0)
        side = self.frame_size or 64
        question = Question(claim, "probe", "normal", lambda: np.full((side, side, 3), 128, np.uint8))
        [opinion] = self.check([question])
        if opinion.error:
            raise BackendError(f"the referee does not answer: {opinion.error}")

    def check(self, questions: Sequence[Question]) -> list[Opinion]:
        parts = [questions[k : k + self.batch_size] for k in range(0, len(questions), self.batch_size)]
        return [opinion for part in parts for opinion in self._check(part)]

    def _check(self, questions: Sequence[Question]) -> list[Opinion]:
        opinions: dict[int, Opinion] = {}
        chats: dict[int, Conversation] = {}
        for k, question in enumerate(questions):
            try:
                chats[k] = self.ask(question)
            except (ValueError, OSError, RuntimeError) as error:
                opinions[k] = Opinion(0, 0, error=str(error))
        try:
            opinions |= self._graded(chats)
        except BackendError as error:
            opinions |= {k: Opinion(0, 0, error=str(error)) for k in chats}
        return [opinions[k] for k in range(len(questions))]

    def ask(self, question: Question) -> Conversation:
        """The conversation about one claim.

        Raises:
            ValueError, OSError, RuntimeError: if its frame cannot be read.
        """
        return ask_about(question, self.prompts, self.frame_size, self.frame_fit)

    def _graded(self, chats: dict[int, Conversation]) -> dict[int, Opinion]:
        """Opinions by probabilities where there are any, the rest as they are written."""
        found: dict[int, Opinion] = {}
        if chats and isinstance(self.backend, Choosing):
            found = self._soft(chats, self.backend)
        rest = {k: chat for k, chat in chats.items() if k not in found}
        if rest:
            answers = self.backend.generate(list(rest.values()), Sampling(MAX_TOKENS))
            for k, answer in zip(rest, answers, strict=True):
                grades = None if answer.error else parse_grades(answer.text)
                if answer.error:
                    found[k] = Opinion(0, 0, error=answer.error)
                elif grades is None:
                    found[k] = Opinion(0, 0, garbled=True)
                else:
                    best = len(GRADES) - 1
                    found[k] = Opinion(grades[0] / best, grades[1] / best)
        return found

    def _soft(self, chats: dict[int, Conversation], backend: Choosing) -> dict[int, Opinion]:
        """Opinions of the questions whose grades have probabilities; a failed question has its error."""
        found: dict[int, Opinion] = {}
        first = self._chosen(chats, {k: relevance_prefix() for k in chats}, AFTER_RELEVANCE, backend, found)
        prefixes = {k: localisation_prefix(p.index(max(p))) for k, p in first.items()}
        second = self._chosen({k: chats[k] for k in prefixes}, prefixes, AFTER_LOCALISATION, backend, found)
        return found | {k: Opinion(soft_score(first[k]), soft_score(p)) for k, p in second.items()}

    @staticmethod
    def _chosen(
        chats: dict[int, Conversation],
        prefixes: dict[int, str],
        after: str,
        backend: Choosing,
        found: dict[int, Opinion],
    ) -> dict[int, list[float]]:
        """Probabilities of the grades after each prefix; what failed, or is garbled, goes into ``found``."""
        if not chats:
            return {}
        scores: list[WordScores | None] = backend.choose(
            list(chats.values()), list(prefixes.values()), GRADES, after=after
        )
        known: dict[int, list[float]] = {}
        for k, score in zip(chats, scores, strict=True):
            if score is None:
                continue
            if score.error:
                found[k] = Opinion(0, 0, error=score.error)
                continue
            probabilities = [math.exp(min(v, 0.0)) for v in score.log_probs]
            total = math.fsum(probabilities)
            if not math.isfinite(total):
                found[k] = Opinion(0, 0, error="the model gave probabilities that are not numbers")
            elif total < MIN_P_GRADES:
                found[k] = Opinion(0, 0, garbled=True)
            else:
                known[k] = probabilities
        return known


def ask_about(
    question: Question, prompts: RefereePrompts, frame_size: int | None = None, frame_fit: FrameFit = "squeeze"
) -> Conversation:
    """The conversation about one claim, as a referee is trained on it and asked: the frame with the region marked, and
    the region enlarged.

    Raises:
        ValueError, OSError, RuntimeError: if its frame cannot be read.
    """
    frame, claim = np.asarray(question.frame()), question.claim
    framing = Framing((frame.shape[0], frame.shape[1]), frame_size, frame_fit)
    picture = marked(framing.show(frame[None])[0], framing.to_shown(claim.box))
    crop = enlarged(frame, claim.box, margin=MARGIN, side=frame_size or CROP_SIDE)
    if frame_size:
        crop = Framing((crop.shape[0], crop.shape[1]), frame_size, "pad").show(crop[None])[0]
    return prompts.ask(picture, crop, claim=claim.phrase, reference=question.reference)


class VLMReferee(ModelReferee):
    """A checkpoint in this process: a mini that ``recipes/train_referee.py`` trained, or any Qwen3-VL.

    Wording and frame size are those of its ``judge.json``; a checkpoint without one is asked in full sentences about
    frames as they are.

    Args:
        model: folder or hub id.
        batch_size: questions asked at once.
        **options: options of :class:`~reward_model.backends.local.LocalBackend`.

    Raises:
        BackendError: if it cannot be loaded.
    """

    def __init__(self, model: str | Path, *, batch_size: int = 32, **options: Any) -> None:
        from reward_model.backends.local import LocalBackend

        backend = LocalBackend(model, **options)
        settings = backend.config
        super().__init__(
            backend,
            wording=settings.prompts,
            frame_size=settings.frame_size,
            frame_fit=settings.frame_fit,
            fingerprint=model_fingerprint(model, {"revision": options.get("revision")}),
            batch_size=batch_size,
        )


class RemoteReferee(ModelReferee):
    """A model behind any OpenAI-compatible server.

    Args:
        model: the name under which the server serves it.
        batch_size: questions asked at once.
        **options: options of :class:`~reward_model.backends.openai.OpenAIBackend`, such as ``base_url``.

    Raises:
        ImportError: if the ``openai`` package is missing.
        ValueError: if an option is out of range.
    """

    def __init__(self, model: str, *, wording: str = "paper", batch_size: int = 64, **options: Any) -> None:
        from reward_model.backends.openai import OpenAIBackend

        backend = OpenAIBackend(model, **options)
        where = {"base_url": backend.server.base_url, "extra_body": backend.extra_body}
        super().__init__(backend, wording=wording, fingerprint=model_fingerprint(model, where), batch_size=batch_size)
