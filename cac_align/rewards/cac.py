"""The two-turn judge of ``reward_model`` as a reward: the probability that a video is free of local anomalies."""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Never

from cac_align.rewards.hub import push_judge, save_judge
from cac_align.rewards.model_reward import BackendReward, check_inputs, log_unjudged
from reward_model.backends.source import (
    BackendSource,
    announce_demo,
    announce_demo_scale,
    check_backend,
    hidden,
    outside,
    shipped_folder,
)

if TYPE_CHECKING:
    import torch
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from reward_model.backends.base import Backend
    from reward_model.backends.secret import Secret
    from reward_model.config import JudgeConfig
    from reward_model.judge import TwoTurnJudge
    from reward_model.schema import Verdict
    from reward_model.video.clip import VideoLike

logger = logging.getLogger(__name__)

MODEL_VARIABLE = "CAC_REWARD_MODEL"


class CaCReward(BackendReward["TwoTurnJudge"]):
    """Judges videos in two turns and rewards those without anomalies (paper, section 3.4 and equation 7).

    The model loads when it is first needed. A pickled copy carries the settings but no weights, and loads them again
    where it arrives; a key given as ``api_key`` is not pickled either, the copy reads ``$OPENAI_API_KEY``.

    A caller's mistake (an absent file, an array of another form) raises. A video that cannot be judged is None in the
    list of scores, and the reason is logged; :meth:`judge` and :meth:`judge_batch` hand the reason back instead.

    Args:
        model: folder or hub id of a Qwen3-VL checkpoint, the name a server serves it under, or for ``replay`` a
            recording. None takes ``$CAC_REWARD_MODEL``, else the embedded mini judge, which knows the procedural world
            only.
        backend: ``"local"`` (transformers), ``"openai"`` (any compatible server), ``"replay"``, or a backend object.
        base_url, api_key: address and key of the server.
        revision, device, dtype: revision, device and precision of the local model. ``dtype`` is a torch dtype or a name
            such as ``"bf16"``; ``torch_dtype`` is another name for it.
        device_map, quantization_config, attn_implementation: options of the local model, handed to ``from_pretrained``.
        readout: how the probability is read: ``"paper"`` after the reasoning (equation 7 as printed, which saturates),
            ``"direct"`` before it, ``"log_odds"`` before it with a temperature. None takes the best that the checkpoint
            was trained for (``readouts`` in its ``judge.json``). See :mod:`reward_model.turns`.
        reasoning: write the chain of thought. False is faster and gives a verdict without window or boxes.
        scan_fps, zoom_fps: frames per second shown in turn one and two; None: as the checkpoint was trained, else 4 and
            8.
        batch_size: videos judged at once.
        on_error: ``"none"`` scores a video that cannot be judged None, ``"raise"`` raises.
        backend_options: more for the backend, such as ``{"deadline_s": 60}``.
        prompts: the wording of the questions.
        num_turns: 1 stops after the scan.
        policy: ``"two_turn"`` looks twice at fixed rates; ``"active"`` lets a checkpoint that was trained so
            (``recipes/active.py``) ask for the frames it needs. The operators it used stand in the verdict.
        start_fps, max_operators, max_episode_frames, max_view_frames: limits of the active policy: rate of the first
            view, operators, and frames of all views and of one.
        max_scan_frames, min_zoom_frames, max_zoom_frames: how many frames the turns are shown in one question; longer
            clips of turn two are thinned.
        long_videos, scan_overlap: videos longer than ``max_scan_frames`` are scanned in overlapping chunks
            (``"chunks"``), or thinned (``"thin"``).
        frame_size: side of the square every frame is shown in.
        frame_fit: ``"pad"`` keeps the shape of frames in that square, ``"squeeze"`` stretches them onto it.
        max_scan_tokens, max_zoom_tokens: longest answers.
        window_margin, crop, context: what turn two is shown, see :class:`reward_model.config.JudgeConfig`.
        aggregate: ``"final"`` is the last turn's probability, ``"joint"`` the product of both turns' doubts.
        log_odds_temperature: temperature of the readout of that name.
        temperature, seed: sampling of answers; a temperature of 0 is greedy.
        all_readouts: keep the other readouts in the verdict as well.
        readouts: what a served checkpoint was trained for, the best first; a local one says so itself.
        cascade: verdicts that stand on the probability before reasoning, where it lies beyond calibrated bounds:
            ``"normal"`` ones, also abnormal ones with their ``"windows"``, or without (``"scores"``); ``"off"``
            reasons about every video.
        normal_above, abnormal_below: those bounds, for a served checkpoint; a local one has them in its ``judge.json``.

        All from ``prompts`` on: None is as the checkpoint was trained.

    Raises:
        ValueError: if a backend, readout or option is unknown, or no model is available.
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
        backend: Literal["local", "openai", "replay"] | Backend = "local",
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        revision: str | None = None,
        device: str | int | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, object] | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        attn_implementation: str | None = None,
        readout: Literal["paper", "direct", "log_odds"] | None = None,
        reasoning: bool | None = None,
        scan_fps: float | None = None,
        zoom_fps: float | None = None,
        batch_size: int | None = None,
        on_error: Literal["none", "raise"] = "none",
        backend_options: dict[str, Any] | None = None,
        prompts: Literal["paper", "compact"] | None = None,
        num_turns: Literal[1, 2] | None = None,
        policy: Literal["two_turn", "active"] | None = None,
        start_fps: float | None = None,
        max_operators: int | None = None,
        max_episode_frames: int | None = None,
        max_view_frames: int | None = None,
        max_scan_frames: int | None = None,
        long_videos: Literal["chunks", "thin"] | None = None,
        scan_overlap: int | None = None,
        min_zoom_frames: int | None = None,
        max_zoom_frames: int | None = None,
        frame_size: int | None = None,
        frame_fit: Literal["squeeze", "pad"] | None = None,
        max_scan_tokens: int | None = None,
        max_zoom_tokens: int | None = None,
        window_margin: Literal["half", "none"] | None = None,
        crop: Literal["hull", "per_window"] | None = None,
        context: Literal["fresh", "chat", "clip_only"] | None = None,
        aggregate: Literal["final", "joint"] | None = None,
        log_odds_temperature: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        all_readouts: bool | None = None,
        readouts: Sequence[str] | None = None,
        cascade: Literal["off", "normal", "windows", "scores"] | None = None,
        normal_above: float | None = None,
        abnormal_below: float | None = None,
        **others: Never,
    ) -> None:
        api_key = hidden(api_key)
        check_backend(backend, base_url, api_key)
        # Where left out they are not named: descriptions of rewards that older files hold stay equal.
        cascading = {"cascade": cascade, "normal_above": normal_above, "abnormal_below": abnormal_below}
        self._judge_options: dict[str, Any] = {
            "readout": readout,
            "reasoning": reasoning,
            "scan_fps": scan_fps,
            "zoom_fps": zoom_fps,
            "batch_size": batch_size,
            "prompts": prompts,
            "num_turns": num_turns,
            "policy": policy,
            "start_fps": start_fps,
            "max_operators": max_operators,
            "max_episode_frames": max_episode_frames,
            "max_view_frames": max_view_frames,
            "max_scan_frames": max_scan_frames,
            "long_videos": long_videos,
            "scan_overlap": scan_overlap,
            "min_zoom_frames": min_zoom_frames,
            "max_zoom_frames": max_zoom_frames,
            "frame_size": frame_size,
            "frame_fit": frame_fit,
            "max_scan_tokens": max_scan_tokens,
            "max_zoom_tokens": max_zoom_tokens,
            "window_margin": window_margin,
            "crop": crop,
            "context": context,
            "aggregate": aggregate,
            "log_odds_temperature": log_odds_temperature,
            "temperature": temperature,
            "seed": seed,
            "all_readouts": all_readouts,
            "readouts": None if readouts is None else tuple(readouts),
            **{name: value for name, value in cascading.items() if value is not None},
            **others,
        }
        _check_options(self._judge_options)
        named = None if not isinstance(backend, str) else str(model) if model is not None else _default_model(backend)
        _check_kind(named)
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

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the local judge as a folder that ``CaCReward(folder)`` loads: weights, processor, ``judge.json`` with
        the settings of this reward, and the model card where the checkpoint has one.

        Raises:
            ValueError: if the judge does not run in this process.
        """
        return save_judge(self.judge_model, Path(folder), self.model)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads what :meth:`save_pretrained` writes, and returns the address of the repository.

        Args:
            repo_id: ``owner/name``; made if there is none.
            private: makes a new repository private.
            token: token of the hub; None: that of ``hf auth login``.
        """
        return push_judge(self.judge_model, repo_id, self.model, private=private, token=token)

    @property
    def judge_model(self) -> TwoTurnJudge:
        """The judge itself; the model loads on first use."""
        return self.opened

    def _open(self) -> TwoTurnJudge:
        from reward_model.config import JudgeConfig
        from reward_model.judge import TwoTurnJudge

        if self.backend == "local":
            assert self.model is not None
            _announce_mini(self.model)
        backend = self._source.open()
        trained = getattr(backend, "config", None)  # what a local checkpoint says of itself
        config = trained if isinstance(trained, JudgeConfig) else JudgeConfig()
        announce_demo_scale(str(self.model), config.demo_scale)
        chosen = {**self._judge_options, "readout": self._readout(config)}
        if self._judge_options["readout"] is not None and isinstance(trained, JudgeConfig):
            _announce_untrained(self.name, chosen["readout"], config.override(readouts=chosen["readouts"]).readouts)
        return TwoTurnJudge(backend, config, **chosen)

    def _readout(self, config: JudgeConfig) -> str:
        """The readout asked for, else the first that the checkpoint was trained for and that can be read."""
        asked = self._judge_options["readout"]
        deciding = {name: self._judge_options.get(name) for name in ("reasoning", "readouts", "cascade")}
        return config.override(**deciding).best_readout if asked is None else str(asked)

    def check_ready(self) -> None:
        """Looks for what would keep the judge from loading, without loading it.

        Raises:
            BackendError: if there is no such model, or it is not a judge.
            ValueError: its settings, the device or the precision make no sense.
        """
        if self._opened is not None:
            return
        self._source.check()
        if self.backend == "local" and self.model is not None and Path(self.model).expanduser().is_dir():
            from reward_model.config import load_judge_config

            config = load_judge_config(Path(self.model).expanduser())
            config.override(**{**self._judge_options, "readout": self._readout(config)}).check_bounds()

    @property
    def demo_note(self) -> str | None:
        """Note for reports if the judge is the embedded mini; None for others."""
        is_demo = self._opened is not None and self._opened.config.demo_scale
        return f"{self.name} is a demonstration: {_KNOWS}" if is_demo or _is_mini(self.model) else None

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        **kwargs: object,
    ) -> list[float | None]:
        """The reward in [0, 1] of each video; None if it could not be judged. Arguments as in
        :meth:`judge_batch`."""
        verdicts = self.judge_batch(videos, prompts, fps=fps)
        log_unjudged(logger, self.name, [v.error or "no reason given" if v.score is None else None for v in verdicts])
        return [v.score for v in verdicts]

    def judge(self, video: VideoLike, prompt: str | None = None, *, fps: float | None = None) -> Verdict:
        """The verdict on one video, with window, boxes, both turns' text, probabilities and provenance."""
        if isinstance(video, list | tuple) and video and isinstance(video[0], str | os.PathLike):
            raise ValueError(f".judge takes one video, got a list of {len(video)} paths; use .judge_batch for several")
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
            ValueError: if ``videos`` is a single video, a file is absent or an array of no known form, numbers do not
                match, or fps is needed and absent. Said before the model loads.
        """
        items, texts, rates = check_inputs(videos, prompts, fps, remedy=", or use .judge(video)")
        verdicts = self.judge_model.judge(items, texts, fps=rates)  # type: ignore[arg-type]
        self._raise_for([str(v.error) if v.score is None else None for v in verdicts], "could not judge")
        return verdicts

    def _told(self) -> dict[str, Any]:
        chosen = {k: v for k, v in self._judge_options.items() if v is not None}
        return chosen if self._opened is None else {"readout": self._opened.config.readout, **chosen}


def mini_judge_folder() -> Path | None:
    """Folder of the embedded mini judge, in an installed package or in a checkout; None if it is not shipped."""
    return shipped_folder("cac-mini")


def _is_mini(model: str | None) -> bool:
    folder = mini_judge_folder()
    return folder is not None and bool(model) and Path(str(model)).resolve() == folder.resolve()


def _check_options(options: dict[str, Any]) -> None:
    """Refuses an unknown or impossible setting now, before a model is loaded for it."""
    from reward_model.config import JudgeConfig

    known = {f.name for f in fields(JudgeConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        names = sorted({*inspect.signature(CaCReward).parameters, *known} - {"others"})
        near = get_close_matches(unknown[0], names, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"CaCReward knows no {', '.join(unknown)}{hint}; it knows {', '.join(names)}")
    JudgeConfig().override(**options)


def _check_kind(model: str | None) -> None:
    """Raises ValueError for a checkpoint that by its name was trained for something else."""
    if model is not None and re.search(r"unified-?reward", Path(model).name.lower()):
        raise ValueError(
            f"{model!r} is a UnifiedReward checkpoint: it rates videos and was never taught to give a verdict. Use "
            "UnifiedReward(...), or pass a Qwen3-VL checkpoint or a CaC judge"
        )


def _default_model(backend: str) -> str:
    model = os.environ.get(MODEL_VARIABLE)
    if model:
        return model
    folder = mini_judge_folder()
    if backend != "local":
        raise ValueError(f"backend={backend!r} needs a model: pass its name, or set ${MODEL_VARIABLE}")
    if folder is None:
        raise ValueError(
            f"no judge available: pass model=..., or set ${MODEL_VARIABLE}; "
            "the mini judge (assets/cac-mini) is not installed here"
        )
    return str(folder)


_KNOWS = (
    "it knows the procedural world of reward_model.world, not real footage. For real videos pass a Qwen3-VL "
    'checkpoint, such as CaCReward("Qwen/Qwen3-VL-8B-Instruct"), or a judge you trained (docs/train_a_judge.md)'
)


@cache
def _announce_mini(model: str) -> None:
    """Warns once per process that the embedded judge cannot judge real footage."""
    announce_demo(model, mini_judge_folder(), _KNOWS)


@cache
def _announce_untrained(name: str, readout: str, trained: tuple[str, ...]) -> None:
    """Warns once where a verdict is read from a place that the checkpoint was never trained to give it at."""
    before = {"direct", "log_odds"}  # two scales of one place
    if readout in trained or (readout in before and before & set(trained)):
        return
    warnings.warn(
        f"readout={readout!r} was never trained into {name}, which was trained to give its verdict for "
        f"{', '.join(map(repr, trained))}, so the score may contradict the verdict. Leave readout out to take the best",
        stacklevel=outside(),
    )
