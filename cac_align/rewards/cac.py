"""The two-turn judge of ``reward_model`` as a reward: the probability that a video is free of local anomalies."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cac_align.rewards.base import RewardError
from cac_align.rewards.source import (
    BackendSource,
    announce_demo,
    check_backend,
    check_on_error,
    check_several,
    hidden,
    shipped_folder,
)

if TYPE_CHECKING:
    from reward_model.judge import TwoTurnJudge
    from reward_model.schema import Verdict
    from reward_model.secret import Secret

MODEL_VARIABLE = "CAC_REWARD_MODEL"


class CaCReward:
    """Judges videos in two turns and rewards those without anomalies (paper, section 3.4 and equation 7).

    The model loads when it is first needed. A pickled copy carries the settings but no weights, and loads them again
    where it arrives; a key given as ``api_key`` is not pickled either, the copy reads ``$OPENAI_API_KEY``.

    Args:
        model: folder or hub id of a Qwen3-VL checkpoint, the name a server serves it under, or for ``replay`` a
            recording. None takes ``$CAC_REWARD_MODEL``, else the embedded mini judge, which knows the procedural world
            only.
        backend: ``"local"`` (transformers), ``"openai"`` (any compatible server), ``"replay"``, or a backend object.
        base_url, api_key: of the server.
        revision, device, dtype: of the local model.
        readout: how the probability is read: ``"direct"`` before the reasoning, ``"paper"`` after it (equation 7 as
            printed, which saturates), ``"log_odds"`` with a temperature. See :mod:`reward_model.readout`.
        reasoning: write the chain of thought. False is faster and gives a verdict without window or boxes.
        scan_fps, zoom_fps: frames per second shown in turn one and two; None: as the checkpoint was trained, else 4 and
            8.
        batch_size: videos judged at once.
        on_error: ``"none"`` scores a video that cannot be judged None, ``"raise"`` raises.
        backend_options: more for the backend, such as ``{"deadline_s": 60}``.
        **judge_options: any other field of :class:`reward_model.config.JudgeConfig`.

    Raises:
        ValueError: an unknown backend, readout or option, or no model at hand.
        RewardError: with ``on_error="raise"``, a video that cannot be judged.

    Example:
        >>> reward = CaCReward()                                   # doctest: +SKIP
        >>> reward([frames], ["a red ball bounces"], fps=16)       # doctest: +SKIP
        [0.9931]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: Literal["local", "openai", "replay"] | Any = "local",
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        readout: Literal["direct", "paper", "log_odds"] = "direct",
        reasoning: bool | None = None,
        scan_fps: float | None = None,
        zoom_fps: float | None = None,
        batch_size: int | None = None,
        on_error: Literal["none", "raise"] = "none",
        backend_options: dict[str, Any] | None = None,
        **judge_options: Any,
    ) -> None:
        api_key = hidden(api_key)
        check_backend(backend, base_url, api_key)
        check_on_error(on_error)
        self.backend, self.on_error = backend, on_error
        self.model = (
            None if not isinstance(backend, str) else str(model) if model is not None else _default_model(backend)
        )
        self._source = BackendSource(
            self.model,
            backend,
            base_url=base_url,
            api_key=api_key,
            revision=revision,
            device=device,
            dtype=dtype,
            options=backend_options,
        )
        chosen = {
            "readout": readout,
            "reasoning": reasoning,
            "scan_fps": scan_fps,
            "zoom_fps": zoom_fps,
            "batch_size": batch_size,
        }
        self._judge_options = {**chosen, **judge_options}
        _check_options(self._judge_options)
        self._judge: TwoTurnJudge | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model's short name, for reports."""
        return self._source.name

    @property
    def judge_model(self) -> TwoTurnJudge:
        """The judge itself; the model loads on first use."""
        with self._lock:
            if self._judge is None:
                self._judge = self._build()
        return self._judge

    def _build(self) -> TwoTurnJudge:
        from reward_model.config import JudgeConfig
        from reward_model.judge import TwoTurnJudge

        if self.backend == "local":
            assert self.model is not None
            _announce_mini(self.model)
        backend = self._source.open()
        config = getattr(backend, "config", None)
        return TwoTurnJudge(backend, config if isinstance(config, JudgeConfig) else None, **self._judge_options)

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """The reward in [0, 1] of each video; None where it could not be judged. Arguments as in
        :meth:`judge_batch`."""
        return [v.score for v in self.judge_batch(videos, prompts, fps=fps)]

    def judge(self, video: Any, prompt: str | None = None, *, fps: float | None = None) -> Verdict:
        """The verdict on one video, with window, boxes, both turns' text, probabilities and provenance."""
        return self.judge_batch([video], None if prompt is None else [prompt], fps=fps)[0]

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: float | None = None
    ) -> list[Verdict]:
        """One verdict per video, in order.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads: paths, (T, H, W, 3) arrays, torch (T, C, H,
                W), lists of images.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second. Files bring their own.

        Raises:
            ValueError: ``videos`` is a single video, numbers do not match, or fps is needed and absent.
        """
        check_several(videos, ", or use .judge(video)")
        verdicts = self.judge_model.judge(videos, prompts, fps=fps)
        failed = [f"video {k}: {v.error}" for k, v in enumerate(verdicts) if v.score is None]
        if failed and self.on_error == "raise":
            raise RewardError("could not judge " + "; ".join(failed))
        return verdicts

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_judge", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _judge=None, _lock=threading.Lock())

    def __repr__(self) -> str:
        backend = getattr(self.backend, "name", self.backend)
        return f"CaCReward({self.model!r}, backend={backend!r}, readout={self._judge_options['readout']!r})"


def mini_judge_folder() -> Path | None:
    """Where the embedded mini judge lies, in an installed package or in a checkout; None where it is not shipped."""
    return shipped_folder("cac-mini")


def _check_options(options: dict[str, Any]) -> None:
    """Refuses an unknown or impossible setting now, before a model is loaded for it."""
    from reward_model.config import JudgeConfig

    JudgeConfig().override(**options)


def _default_model(backend: str) -> str:
    model = os.environ.get(MODEL_VARIABLE)
    if model:
        return model
    folder = mini_judge_folder()
    if backend != "local":
        raise ValueError(f"backend={backend!r} needs a model: pass its name, or set ${MODEL_VARIABLE}")
    if folder is None:
        raise ValueError(
            f"no judge at hand: pass model=..., or set ${MODEL_VARIABLE}; "
            "the mini judge (assets/cac-mini) is not installed here"
        )
    return str(folder)


@cache
def _announce_mini(model: str) -> None:
    """Warns once per process that the embedded judge is no judge of real footage."""
    announce_demo(
        model,
        mini_judge_folder(),
        "it knows the procedural world of reward_model.world and nothing of real footage. "
        'For real videos pass a trained checkpoint: CaCReward("my-org/cac-8b")',
    )
