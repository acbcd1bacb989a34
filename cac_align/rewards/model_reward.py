"""Rewards with a model behind them: what they may be called with, and the base that opens the model at first use.

A call is looked at before a model is asked or even loaded. A mistake of the caller is an error: an absent file, an
array of another form, a prompt that is not a text. A video that is of the right form and still cannot be judged (a file
that breaks off, frames of NaN) passes, and the model says why.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from cac_align.rewards.base import RewardError
from reward_model.backends.source import BackendSource, check_on_error
from reward_model.video.clip import Video, VideoError, VideoFormError, VideoLike, check_fps, load_video

Opened = TypeVar("Opened")


class ModelReward(ABC, Generic[Opened]):
    """The base of rewards that load something. It is opened once, by the first call of any thread; a pickled copy
    carries the settings alone and opens its own where it arrives.

    A subclass gives itself a ``name`` (short, for reports) and says how to open (:meth:`_open`).

    Args:
        on_error: ``"none"`` scores a video that cannot be judged None, ``"raise"`` raises.

    Raises:
        ValueError: if ``on_error`` is neither.
    """

    name: str
    #: See :func:`cac_align.rewards.base.evaluate`.
    takes_videos = True

    def __init__(self, on_error: str) -> None:
        check_on_error(on_error)
        self.on_error = on_error
        self._reset()

    def _reset(self) -> None:
        self._opened: Opened | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def _open(self) -> Opened:
        """Loads the model."""

    @property
    def opened(self) -> Opened:
        """The loaded model; the first call loads it."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
        return self._opened

    def make_ready(self) -> None:
        """Loads the model."""
        _ = self.opened

    def _raise_for(self, reasons: Sequence[str | None], said: str) -> None:
        """Raises RewardError with the reasons of all videos that have one, where ``on_error`` is ``"raise"``."""
        failed = [f"video {k}: {reason}" for k, reason in enumerate(reasons) if reason]
        if failed and self.on_error == "raise":
            raise RewardError(f"{said} " + "; ".join(failed))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class BackendReward(ModelReward[Opened]):
    """A reward whose model a backend runs.

    Args:
        source: the model and how it is reached.
        on_error: as of :class:`ModelReward`.
    """

    def __init__(self, source: BackendSource, on_error: str) -> None:
        super().__init__(on_error)
        self._source, self.model, self.backend = source, source.model, source.backend
        self.name = source.name

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Any) -> Self:
        """The same as the class itself, by the name that models of transformers and diffusers have."""
        return cls(model, **options)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        backend = getattr(self.backend, "name", self.backend)
        told = "".join(f", {name}={value!r}" for name, value in self._told().items())
        return f"{type(self).__name__}({self.model!r}, backend={backend!r}{told})"

    def _told(self) -> dict[str, Any]:
        """Settings that ``repr`` tells."""
        return {}


# --- what a call gives ------------------------------------------------------------------------------------------------


def check_inputs(
    videos: object, prompts: object, fps: object, *, remedy: str = ""
) -> tuple[list[Any], list[str | None], list[float | None]]:
    """Videos, prompts and rates, one each, as judges take them.

    Args:
        videos: a list of videos, or a torch or numpy batch of them.
        prompts: one text for all, one each, or None.
        fps: one number for all, one each, or None where files bring their own.
        remedy: ends the message about a single video where a list is needed.

    Raises:
        ValueError: if one of them is of the wrong form; the message says which, and what is needed.
    """
    items = _items(videos, remedy)
    texts = _texts(prompts, len(items))
    rates = _rates(fps, len(items))
    return [_video(k, v, r) for k, (v, r) in enumerate(zip(items, rates, strict=True))], texts, rates


def _items(videos: Any, remedy: str) -> list[Any]:
    single = isinstance(videos, str | os.PathLike | Video) or getattr(videos, "ndim", 5) == 4
    if single or (hasattr(videos, "frames") and not isinstance(videos, Sequence)):
        raise ValueError(f"videos must be a list of videos, got a single one; pass [video]{remedy}")
    if isinstance(videos, Mapping) or not hasattr(videos, "__iter__"):
        raise ValueError(f"videos must be a list of videos, got {type(videos).__name__}")
    if getattr(videos, "ndim", 0) == 5 and hasattr(videos, "detach"):
        # A torch batch is (B, C, T, H, W), as diffusers' "pt" output and VAEs have it, or (B, T, C, H, W).
        return [v[None] if v.shape[0] in (1, 3, 4) else v for v in videos]
    if hasattr(videos, "ndim") and videos.ndim != 5:
        raise ValueError(
            f"a batch of videos must have five axes, (B, T, H, W, C) in numpy or (B, C, T, H, W) in torch; got shape "
            f"{tuple(videos.shape)}"
        )
    return list(videos)


def _texts(prompts: object, count: int) -> list[str | None]:
    if prompts is None or isinstance(prompts, str):
        return [prompts] * count
    if isinstance(prompts, Mapping) or not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be a text for all videos or a list of one each, got {type(prompts).__name__}")
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} videos; give one for all, or one each")
    for k, text in enumerate(prompts):
        if text is not None and not isinstance(text, str):
            hint = "; pass its 'prompt'" if isinstance(text, Mapping) and "prompt" in text else ""
            raise ValueError(f"the prompt of video {k} must be a text or None, got {type(text).__name__}{hint}")
    return list(prompts)


def _rates(fps: Any, count: int) -> list[float | None]:
    if fps is None:
        return [None] * count
    if isinstance(fps, str | bytes) or not hasattr(fps, "__len__"):
        return [check_fps(fps)] * count
    if len(fps) != count:
        raise ValueError(f"{len(fps)} fps for {count} videos; give one for all, or one each")
    return [None if rate is None else check_fps(rate) for rate in fps]


def _video(k: int, video: VideoLike, fps: float | None) -> Any:
    if isinstance(video, str | os.PathLike):
        _check_path(k, video)
        return video
    if isinstance(video, Video):
        return video
    rate = check_fps(fps)
    try:
        return load_video(video, rate)
    except VideoFormError as error:
        raise VideoFormError(f"video {k}: {error}") from None
    except VideoError:
        return video  # of the right form; the judge says what is wrong with it


def _check_path(k: int, path: str | os.PathLike[str]) -> None:
    name = os.fspath(path)
    place = Path(name)
    if place.is_file():
        return
    if "://" in name or name.startswith(("http:", "https:")):
        raise ValueError(f"video {k}: {name!r} is an address; download the file and pass its path")
    if place.is_dir():
        raise ValueError(
            f"video {k}: {name!r} is a folder; pass the files in it, for instance sorted(folder.glob('*.mp4'))"
        )
    if place.exists():
        raise ValueError(f"video {k}: {name!r} is not a regular file; pass the path of a video")
    where = "" if place.is_absolute() else f" (looked in {Path.cwd()})"
    raise ValueError(f"video {k}: no video file at {name!r}{where}; check the path")


def read_files(videos: Sequence[Any], fps: float | None) -> tuple[list[Any], float, dict[int, str]]:
    """Videos with their frames in memory, read once for several rewards.

    Args:
        videos: paths become :class:`~reward_model.video.Video`; anything else stays as it is.
        fps: frames per second; None: that of the files.

    Returns:
        The videos, their common rate, and by position why a file could not be read.

    Raises:
        ValueError: if a file is absent, or there is not one rate for all.
    """
    if not any(isinstance(v, str | os.PathLike) for v in videos):
        return list(videos), check_fps(fps), {}
    opened, unreadable, rates = list(videos), {}, set()
    for k, video in enumerate(videos):
        if not isinstance(video, str | os.PathLike):
            rates.add(check_fps(fps))
            continue
        _check_path(k, video)
        try:
            file = load_video(video, fps)
            opened[k] = file.in_memory()
            rates.add(file.fps)
        except VideoError as error:
            unreadable[k] = str(error)
    if len(rates) > 1:
        raise ValueError(
            f"the files have {' and '.join(f'{r:g}' for r in sorted(rates))} frames per second; a reward is told one "
            "rate: pass fps=..., or ask about them in separate calls"
        )
    return opened, next(iter(rates), 1.0), unreadable


def log_unjudged(logger: logging.Logger, name: str, reasons: Sequence[str | None]) -> None:
    """One warning with the reasons of all videos that have no score, for callers who see only None."""
    lost = [(k, reason) for k, reason in enumerate(reasons) if reason is not None]
    if lost:
        listed = "; ".join(f"video {k}: {reason}" for k, reason in lost[:5])
        more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
        count = f"{len(lost)} of {len(reasons)} videos"
        logger.warning("%s could not judge %s (their score is None): %s%s", name, count, listed, more)
