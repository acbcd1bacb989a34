"""UnifiedReward (arXiv 2503.05236) as a reward: how well a video agrees with its prompt, obeys physics and looks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cac_align.rewards.base import Evaluation
from cac_align.rewards.model_reward import BackendReward, check_inputs, log_unjudged
from cac_align.rewards.ranking import Comparison, Ranking, compare_all, rank_by_share
from cac_align.rewards.unified_model import MINI_KNOWS, announce_mini, check_fit, default_model, mini_unified_folder
from reward_model.backends.source import BackendSource, check_backend, hidden

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from reward_model.backends.base import Backend
    from reward_model.backends.secret import Secret
    from reward_model.unified.pairs import PairProtocol
    from reward_model.unified.protocols import Protocol
    from reward_model.unified.score import UnifiedScore
    from reward_model.unified.wording import AnyProtocol
    from reward_model.video.clip import VideoLike

logger = logging.getLogger(__name__)

POINT_PROTOCOLS = ("aps", "video5")
PAIR_PROTOCOLS = ("pair", "pair_score", "think_pair", "flex_pair")
#: How checkpoints that score single videos compare two of them.
PARTNERS = {"aps": "pair_score", "video5": "pair"}
LOCAL_BATCH_SIZE = 8


class UnifiedReward(BackendReward["Backend"]):
    """Scores videos with a UnifiedReward checkpoint, greedily, asked as its public scripts ask.

    Frames, scales and form of the answer are the scripts'; the sentences of the question are ours unless ``wording``
    names a file with others. The checkpoints were tuned on the scripts' sentences;
    :mod:`reward_model.unified.wording` says where these stand. The embedded mini knows ours alone.

    Checkpoints on Qwen3-VL run in this process, those on Qwen2.5-VL, Qwen3.5 and LLaVA behind a server. The score is
    the mean of the protocol's axes, each brought from its range to [0, 1] by (x - low) / (high - low); the overall
    1-10 of ``video5`` was never trained (its authors say so) and is not read. An answer without all axes has no score.
    The model loads when it is first needed; pickled copies carry neither weights nor key, like
    :class:`~cac_align.rewards.cac.CaCReward`.

    Args:
        model: folder or hub id of a checkpoint, the name a server serves it under, or for ``replay`` a recording. None
            takes ``$UNIFIED_REWARD_MODEL``, else an embedded mini judge where one is shipped.
        backend: ``"local"`` (transformers), ``"openai"`` (any compatible server), ``"replay"``, or a backend object.
        protocol: ``"aps"`` (2.0 checkpoints: alignment, physics, style), ``"video5"`` (first generation: five axes), or
            one that compares only: ``"pair"``, ``"pair_score"``, ``"think_pair"`` (Think checkpoints), ``"flex_pair"``
            (Flex checkpoints).
        wording: a text file with the question of ``protocol``, ``{prompt}`` where the prompt stands; None: ours.
        base_url, api_key: address and key of the server.
        revision, device, dtype: revision, device and precision of the local model. Pin the revision: checkpoints have
            been replaced silently. ``torch_dtype`` is another name of ``dtype``.
        device_map, quantization_config, attn_implementation: options of the local model, handed to ``from_pretrained``.
        batch_size: videos asked about at once; None: 8 locally, all elsewhere.
        max_new_tokens: most new tokens of an answer; None: as the protocol says.
        on_error: ``"none"`` scores a video that cannot be scored None, ``"raise"`` raises.
        backend_options: more for the backend, such as ``{"deadline_s": 60}``.

    Raises:
        ValueError: an unknown option, no model available, a wording that cannot be used, or a checkpoint and a protocol
            that do not fit.
        RewardError: with ``on_error="raise"``, a video that cannot be scored.

    Example:
        >>> reward = UnifiedReward("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b")                    # doctest: +SKIP
        >>> reward([frames], ["a red ball bounces"], fps=16)                                     # doctest: +SKIP
        [0.6142]
        >>> reward.rank([first, second, third], "a red ball bounces", fps=16).order              # doctest: +SKIP
        [2, 0, 1]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: Literal["local", "openai", "replay"] | Backend = "local",
        protocol: str = "aps",
        wording: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        revision: str | None = None,
        device: str | int | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, object] | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        attn_implementation: str | None = None,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        on_error: Literal["none", "raise"] = "none",
        backend_options: dict[str, Any] | None = None,
    ) -> None:
        api_key = hidden(api_key)
        check_backend(backend, base_url, api_key)
        if protocol not in (*POINT_PROTOCOLS, *PAIR_PROTOCOLS):
            raise ValueError(f"protocol={protocol!r} must be one of {', '.join((*POINT_PROTOCOLS, *PAIR_PROTOCOLS))}")
        for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1, or None")
        self.protocol = protocol
        named = None if not isinstance(backend, str) else str(model) if model is not None else default_model(backend)
        check_fit(named, protocol)
        self.batch_size = LOCAL_BATCH_SIZE if batch_size is None and backend == "local" else batch_size
        self.max_new_tokens = max_new_tokens
        self.wording = None if wording is None else os.fspath(wording)
        if self.wording is not None:
            self._check_wording()
        source = BackendSource(
            named,
            backend,
            base_url=base_url,
            api_key=api_key,
            revision=revision,
            device=device,
            dtype=dtype,
            torch_dtype=torch_dtype,
            device_map=device_map,
            quantization_config=quantization_config,
            attn_implementation=attn_implementation,
            options=backend_options,
        )
        super().__init__(source, on_error)

    def check_ready(self) -> None:
        """Looks for what would keep the model from loading or scoring, without loading it.

        Raises:
            BackendError: if there is no such model, or it is of another kind.
            ValueError: the protocol scores no single videos, or there is no such device.
        """
        self._check_scores()
        if self._opened is None:
            self._source.check()

    @property
    def demo_note(self) -> str | None:
        """Note for reports if the judge is the embedded mini; None for others."""
        folder = mini_unified_folder()
        if folder is not None and self.model and Path(self.model).resolve() == folder.resolve():
            return f"{self.name} is a demonstration: {MINI_KNOWS}"
        return None

    @property
    def opened_backend(self) -> Backend:
        """The backend itself; the model loads on first use."""
        return self.opened

    def _open(self) -> Backend:
        if self.backend == "local":
            assert self.model is not None
            announce_mini(self.model)
        return self._source.open()

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        **kwargs: object,
    ) -> list[float | None]:
        """The score in [0, 1] of each video; None if it could not be scored. Arguments as in :meth:`score`."""
        answers = self.score(videos, prompts, fps=fps)
        log_unjudged(logger, self.name, [f.error or "no reason given" if f.score is None else None for f in answers])
        return [f.score for f in answers]

    def score(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: float | None = None
    ) -> list[UnifiedScore]:
        """Everything about each video's score: axes, the answer, the reason of a None, provenance.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads: paths, (T, H, W, 3) arrays, torch (T, C, H,
                W), lists of images.
            prompts: the text each video was made from; one string serves all. Needed: agreement with it is scored.
            fps: frames per second; checked and then ignored, the protocols go by frames.

        Raises:
            ValueError: if ``videos`` is a single one, a prompt is missing, numbers do not match, or the protocol
                compares only.
        """
        from reward_model.unified.score import UnifiedJudge

        items, _, rates = check_inputs(videos, prompts, _rate(fps))
        texts = _texts(prompts, len(items))
        self._check_scores()
        judge = UnifiedJudge(self.opened_backend, self._point_protocol(), batch_size=self.batch_size)
        found = judge.score(items, texts, fps=rates)
        self._raise_for([str(f.error) if f.score is None else None for f in found], "could not score")
        return found

    def evaluate(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: float | None = None
    ) -> Evaluation:
        """The scores, each axis as a part, and the reason of every None. Arguments as in :meth:`score`."""
        found = self.score(videos, prompts, fps=fps)
        axes = self._point_protocol().axes
        parts = {axis: [f.axes.get(axis) if f.score is not None else None for f in found] for axis in axes}
        return Evaluation([f.score for f in found], [None] * len(found), [f.error for f in found], parts)

    def compare(self, video_a: VideoLike, video_b: VideoLike, prompt: str, *, fps: float | None = None) -> Comparison:
        """Preference for ``video_a`` over ``video_b``, asked in both orders to cancel the bias of position.

        Arguments and errors as in :meth:`rank`. ``aps`` checkpoints are asked by ``pair_score``, ``video5`` ones by
        ``pair``.
        """
        ranking = self.rank([video_a, video_b], prompt, fps=fps)
        return ranking.comparisons.get((0, 1)) or Comparison(
            None, error="; ".join(f"{'ab'[k]}: {reason}" for k, reason in enumerate(ranking.reasons) if reason)
        )

    def rank(self, videos: Sequence[Any], prompt: str, *, fps: float | None = None) -> Ranking:
        """Videos of one prompt, ranked by their mean preference over the others: n (n - 1) questions.

        Args:
            videos: at least two, as in :meth:`score`.
            prompt: the text all were made from.
            fps: checked and then ignored.

        Raises:
            ValueError: if ``videos`` is a single one or fewer than two, or the prompt is empty.
            RewardError: with ``on_error="raise"``, a video that cannot be compared with any other.
        """
        items, _, _ = check_inputs(videos, None, _rate(fps))
        if len(items) < 2:
            raise ValueError(f"ranking needs at least two videos, got {len(items)}")
        [text] = _texts(prompt, 1)
        frames, unreadable = _load(items, _rate(fps))
        positions = list(frames)
        found = compare_all(self.opened_backend, self._pair_protocol(), list(frames.values()), text, self.batch_size)
        ranking = rank_by_share({(positions[a], positions[b]): c for (a, b), c in found.items()}, len(items))
        reasons = [unreadable.get(k, reason) for k, reason in enumerate(ranking.reasons)]
        self._raise_for(reasons, "could not compare")
        return replace(ranking, reasons=reasons)

    def _point_protocol(self) -> Protocol:
        from reward_model.unified.protocols import PROTOCOLS

        return self._adapted(PROTOCOLS[self.protocol])

    def _pair_protocol(self) -> PairProtocol:
        from reward_model.unified.pairs import PAIR_PROTOCOLS as KNOWN

        return self._adapted(KNOWN[PARTNERS.get(self.protocol, self.protocol)])

    def _adapted(self, protocol: AnyProtocol) -> AnyProtocol:
        """The protocol with this reward's answer limit and, where it is the one that was named, its wording."""
        if self.wording is not None and protocol.name == self.protocol:
            from reward_model.unified.wording import with_wording

            protocol = with_wording(protocol, self.wording)
        return protocol if self.max_new_tokens is None else replace(protocol, max_new_tokens=self.max_new_tokens)

    def _check_wording(self) -> None:
        _ = self._point_protocol() if self.protocol in POINT_PROTOCOLS else self._pair_protocol()

    def _check_scores(self) -> None:
        if self.protocol in PAIR_PROTOCOLS:
            raise ValueError(
                f"protocol={self.protocol!r} compares videos and scores none; use .compare or .rank, "
                "or a 2.0 checkpoint with protocol='aps'"
            )

    def _told(self) -> dict[str, Any]:
        return {"protocol": self.protocol}


def _texts(prompts: Sequence[str] | str | None, count: int) -> list[str]:
    """One prompt per video."""
    texts: list[Any] = [prompts] * count if prompts is None or isinstance(prompts, str) else list(prompts)
    if len(texts) != count:
        raise ValueError(f"{len(texts)} prompts for {count} videos; give one for all, or one each")
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"the prompt of video {position} is {text!r}; UnifiedReward scores how well a video agrees with its "
                "prompt: pass the text it was made from"
            )
    return texts


def _rate(fps: float | None) -> float:
    """A frame rate for reading arrays, which the protocols ignore."""
    return 1.0 if fps is None else fps


def _load(videos: Sequence[Any], fps: float) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Frames of the readable videos and the reasons of the others, by position."""
    from reward_model.video.clip import VideoError, load_video

    frames, unreadable = {}, {}
    for position, video in enumerate(videos):
        try:
            frames[position] = load_video(video, fps).frames
        except VideoError as error:
            unreadable[position] = str(error)
    return frames, unreadable
