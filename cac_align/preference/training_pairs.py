"""The pairs of a training: read from what ``cac-align pairs`` wrote, and held against the run, before a model loads.

A preference was found on a whole video, so one whose picture or end would be cut off is refused; winners for
fine-tuning may be longer, like other videos that are trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cac_align.corpus.pair_files import PREFERENCE_KINDS
from cac_align.corpus.table_files import TABLE_SUFFIXES, read_table_rows
from cac_align.flow_grpo.sampler.clips import CaptionedClip, frames_of_run
from cac_align.flow_grpo.training_settings import TrainingSettings
from reward_model.digests import json_digest
from reward_model.folders import file_digest
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange
from reward_model.shipped import located
from reward_model.video.clip import VideoError, load_video

#: Share of a picture's height or width that may be cut off to give it the shape of the run.
CUT = 0.03
#: Frames of a video, at the rate of the run, that may be left after the last one that is taken: less than one latent
#: frame.
LEFT = 3


@dataclass(frozen=True)
class TrainingPair:
    """Two videos of one prompt, and what the judge found in them, by native frames.

    ``rejected`` is None for a winner alone; ``num_frames`` are those of both videos as they were judged, None where
    that is not known.
    """

    prompt: str
    chosen: Path
    rejected: Path | None = None
    findings: tuple[tuple[Anomaly, ...], tuple[Anomaly, ...]] = ((), ())
    num_frames: tuple[int | None, int | None] = (None, None)

    def videos(self) -> list[Path]:
        """Its one or two files."""
        return [self.chosen] if self.rejected is None else [self.chosen, self.rejected]


def read_training_pairs(source: str, *, winners: bool = False) -> list[TrainingPair]:
    """Pairs in the order of their file.

    Args:
        source: a table of ``cac-align pairs`` in the format ``preference``; paths in it count from its folder.
        winners: read only the chosen videos, each once; the format ``winners`` is read as well.

    Raises:
        ValueError: if the file is missing or empty, or a row is not a pair of videos that exist.
    """
    path = Path(located(source))
    if path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        what = "no file" if path.suffix.lower() in TABLE_SUFFIXES else f"not a table ({', '.join(TABLE_SUFFIXES)})"
        raise ValueError(f"{what} at that path; make one: cac-align pairs FOLDER_OF_BEST_OF_N --output {source}")
    rows = read_table_rows(path, PREFERENCE_KINDS)
    if not rows:
        raise ValueError("the file holds no pair; make one with candidates that differ, or with a lower --margin")
    pairs = [_read(row, number, path.parent, winners) for number, row in enumerate(rows, 1)]
    if not winners:
        return pairs
    each: dict[tuple[Path, str], TrainingPair] = {}
    for pair in pairs:
        each.setdefault((pair.chosen, pair.prompt), pair)
    return list(each.values())


def _read(row: Mapping[str, Any], number: int, folder: Path, winners: bool) -> TrainingPair:
    if winners and "chosen" not in row and "video" in row:
        return TrainingPair(_text(row, "prompt", number), _video(row, "video", number, folder))
    prompt, chosen = _text(row, "prompt", number), _video(row, "chosen", number, folder)
    if winners:
        return TrainingPair(prompt, chosen)
    rejected = _video(row, "rejected", number, folder)
    if chosen.resolve() == rejected.resolve():
        raise ValueError(f"row {number}: chosen and rejected are one video, {str(chosen)!r}; leave the row out")
    try:
        findings = _findings(row, "chosen"), _findings(row, "rejected")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"row {number}: what was found in its videos cannot be read ({error!r})") from None
    lengths = row.get("chosen_num_frames"), row.get("rejected_num_frames")
    return TrainingPair(prompt, chosen, rejected, findings, lengths)


def _text(row: Mapping[str, Any], name: str, number: int) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        formats = {"caption": "labelled", "video": "winners"}
        other = next((form for column, form in formats.items() if column in row and name not in row), None)
        hint = f"the file has the format {other!r}; " if other else ""
        raise ValueError(
            f"row {number}: {name}={value!r} must be a text; {hint}write pairs with cac-align pairs --format preference"
        )
    return value.strip()


def _video(row: Mapping[str, Any], name: str, number: int, folder: Path) -> Path:
    file = folder / _text(row, name, number)
    if not file.is_file():
        raise ValueError(f"row {number}: there is no video {str(file)!r} ({name}); fix the path, or leave the row out")
    return file


def _findings(row: Mapping[str, Any], side: str) -> tuple[Anomaly, ...]:
    """Anomalies of one video; an anomaly has the boxes of its type within its frames."""
    boxes: dict[tuple[str, int], list[Box]] = {}
    for box in row.get(f"{side}_boxes") or ():
        corners = Box(*(int(box[name]) for name in ("x0", "y0", "x1", "y1")))
        boxes.setdefault((box["type"], int(box["frame"])), []).append(corners)
    anomalies = []
    for entry in row.get(f"{side}_anomalies") or ():
        frames = FrameRange(int(entry["first_frame"]), int(entry["last_frame"]))
        own = {n: tuple(found) for (kind, n), found in boxes.items() if kind == entry["type"] and n in frames}
        anomalies.append(Anomaly(AnomalyType(entry["type"]), frames, own))
    return tuple(anomalies)


def clips_of_pairs(pairs: Sequence[TrainingPair]) -> list[CaptionedClip]:
    """The chosen videos of all pairs, then the rejected ones in the same order, if there are some."""
    chosen = [CaptionedClip(pair.chosen, pair.prompt) for pair in pairs]
    return chosen + [CaptionedClip(pair.rejected, pair.prompt) for pair in pairs if pair.rejected is not None]


def pairs_digest(pairs: Iterable[TrainingPair]) -> str:
    """A digest that changes with any byte of a video, with a prompt, with a finding and with the order."""
    return json_digest(
        [
            [p.prompt, *(file_digest(video) for video in p.videos()), [[a.to_dict() for a in f] for f in p.findings]]
            for p in pairs
        ]
    )


def check_pair_videos(pairs: Sequence[TrainingPair], config: TrainingSettings) -> None:
    """Opens every video once, without decoding it.

    Raises:
        ValueError: if one cannot be read, or has not the rate, the length or the shape of the run.
    """
    wrong = {}
    for pair in pairs:
        for video, judged in zip(pair.videos(), pair.num_frames, strict=False):
            if video not in wrong:
                wrong[video] = _fault(video, judged, config, whole=pair.rejected is not None)
    faults = [fault for fault in wrong.values() if fault]
    if faults:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}")


def _fault(path: Path, judged: int | None, config: TrainingSettings, *, whole: bool) -> str:
    """Reason why the run cannot take a video; empty if it can. ``whole``: nothing of it may be cut off."""
    try:
        video = load_video(path)
        taken = frames_of_run(path, video, config.num_frames, config.fps)
    except VideoError as error:
        return f"{error}; set num_frames and fps that it has, or leave its row out"
    if not whole:
        return ""
    if judged is not None and judged != video.num_frames:
        return f"{str(path)!r} was judged with {judged} frames and has {video.num_frames}; make the pairs again"
    rate = video.fps / config.fps
    if (video.num_frames - 1 - taken[-1]) / rate > LEFT:
        return (
            f"{str(path)!r} lasts {video.num_frames / video.fps:.2f} s, longer than the {config.num_frames} frames at "
            f"{config.fps:g} fps of the run, and was judged as a whole; set num_frames and fps that it has"
        )
    height, width = video.size
    shape = height / width * config.width / config.height
    if min(shape, 1 / shape) < 1 - CUT:
        return (
            f"{str(path)!r} has {height}x{width} pixels, which {config.height}x{config.width} would cut off, and was "
            "judged as a whole; set height and width of the same shape"
        )
    return ""


def run_findings(pair: TrainingPair, config: TrainingSettings) -> tuple[list[Anomaly], list[Anomaly]]:
    """The findings on both videos by the frames that the run takes of them."""
    found: list[list[Anomaly]] = [[], []]
    for side, path in enumerate(pair.videos() if any(pair.findings) else ()):
        taken = frames_of_run(path, load_video(path), config.num_frames, config.fps)
        found[side] = [moved for anomaly in pair.findings[side] if (moved := anomaly.on_grid(taken)) is not None]
    return found[0], found[1]
