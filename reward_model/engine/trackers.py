"""Trackers of a run, named as transformers names them (``report_to``) and opened by accelerate: TensorBoard, Weights &
Biases and trackio. Each is shown numbers, videos and tables in the form it has for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

#: The choices of ``report_to``.
Reporter = Literal["tensorboard", "wandb", "trackio", "none"]
#: Name of a tracker for people, and what installs it.
_KNOWN = {
    "tensorboard": ("TensorBoard", '"cac-align[train]"'),
    "wandb": ("Weights & Biases", "wandb"),
    "trackio": ("trackio", "trackio"),
}
#: Project of a run that names none.
PROJECT = "cac-align"


def as_list(report_to: Any) -> Any:
    """``report_to`` as a list where one name stands for it; what is neither a name nor a list stays as it is."""
    return [report_to] if isinstance(report_to, str) else report_to


def check_names(report_to: Sequence[str]) -> None:
    """Raises ValueError if no tracker is named, or ``none`` beside another."""
    if not report_to or ("none" in report_to and len(report_to) > 1):
        raise ValueError(f"report_to={report_to!r} must name at least one place; 'none' stands alone")


def check_reporters(report_to: Sequence[str], project: str | None = None) -> list[str]:
    """Looks for the packages of ``report_to``, before anything is loaded; returns the trackers to open.

    Args:
        report_to: some of :data:`Reporter`.
        project: project of Weights & Biases or trackio; with neither of them in ``report_to`` it adds the first.

    Raises:
        ValueError: if a package is not installed; the message has the pip line.
    """
    names = [name for name in report_to if name != "none"]
    added = bool(project) and not {"wandb", "trackio"} & set(names)
    for name in [*names, *(["wandb"] if added else [])]:
        if find_spec(name) is None:
            title, package = _KNOWN[name]
            asked = f"wandb_project={project!r}" if added and name == "wandb" else f"report_to={name}"
            raise ValueError(
                f"{asked} needs {title}: pip install {package}, or set report_to to none (metrics.jsonl is written "
                "anyway)"
            )
    return [*names, *(["wandb"] if added else [])]


class Trackers:
    """The open trackers of a run; there may be none.

    Args:
        report_to, project: see :func:`check_reporters`; the project is by default that of ``$WANDB_PROJECT`` or
            ``$TRACKIO_PROJECT``, else ``cac-align``.
        folder: folder of the run, for what a tracker keeps on the disk.
        first_step: steps done: TensorBoard forgets what a stopped run showed beyond them. The others begin a new run.
        settings: shown with the run.

    Raises:
        ValueError: if a package is not installed, or a tracker does not open.
    """

    def __init__(
        self,
        report_to: Sequence[str],
        folder: Path,
        *,
        project: str | None = None,
        first_step: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"logging_dir": str(folder), "purge_step": first_step + 1},
            "wandb": {"dir": str(folder), "name": folder.name, "resume": "allow"},
            "trackio": {},
        }
        self.open = {
            name: _opened(name, project, options[name], settings or {}) for name in check_reporters(report_to, project)
        }

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Shows finite numbers of a step."""
        for tracker in self.open.values():
            tracker.log(dict(values), step=step)

    def video(
        self,
        step: int,
        tag: str,
        path: Path,
        frames: Sequence[np.ndarray] | np.ndarray,
        *,
        fps: float,
        text: str | None = None,
    ) -> None:
        """Shows a video.

        Args:
            step: step of the run.
            tag: its place in the tracker, such as ``videos/group-0-best``.
            path: file of it, MP4 or GIF.
            frames: the same as (T, H, W, 3) uint8, for TensorBoard's animated picture.
            fps: frames per second of ``frames``.
            text: caption, where the tracker has one.
        """
        for name, tracker in self.open.items():
            if name == "tensorboard":
                from reward_model.engine.video_summary import add_gif, encode_gif

                gif = path.read_bytes() if path.suffix == ".gif" else encode_gif(frames, fps)
                add_gif(tracker.tracker, tag, gif, step)
            else:
                tracker.log({tag: import_module(name).Video(str(path), caption=text)}, step=step)

    def table(self, step: int, tag: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], markdown: str) -> None:
        """Shows a table; ``markdown`` is the same for trackers that have no tables."""
        for name, tracker in self.open.items():
            if name == "wandb":
                tracker.log_table(tag, columns=list(columns), data=[list(row) for row in rows], step=step)
            elif name == "trackio":
                tracker.log({tag: import_module(name).Markdown(markdown)}, step=step)
            else:
                tracker.log({tag: markdown}, step=step)

    def flush(self) -> None:
        """Writes what TensorBoard still holds back; the others send on their own."""
        if "tensorboard" in self.open:
            self.open["tensorboard"].tracker.flush()

    def close(self) -> None:
        """Ends all of them."""
        for tracker in self.open.values():
            tracker.finish()


def _opened(name: str, project: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """accelerate's tracker of a name, started."""
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # their messages need to know the process; in a training it is known already
    if name == "tensorboard":  # its folder; settings would become a run of their own there
        tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard", **options)
        _start(tracker)
        return tracker
    project = project or os.environ.get("WANDB_PROJECT") or os.environ.get("TRACKIO_PROJECT") or PROJECT
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](project, **options)
        _start(tracker)
        tracker.store_init_configuration(dict(settings))
    except Exception as error:  # each tracker has errors of its own: no login, no network, a project that is not yours
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"report_to={name} does not open project {project!r}: {reason}; log in, set WANDB_MODE=offline for "
            "Weights & Biases without a network, or take another tracker"
        ) from error
    return tracker


def _start(tracker: Any) -> None:
    """Starts a tracker; those of older versions of accelerate start when they are made."""
    if start := getattr(tracker, "start", None):
        start()
