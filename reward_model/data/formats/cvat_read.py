"""CVAT's export "CVAT for video 1.1" back to records: of a task, of single jobs, or of a project of several tasks.

Frames in the XML are those of the video, whatever part of it a task shows (``start_frame``, ``stop_frame``,
``frame_filter``). The export writes a shape for every frame, ``keyframe`` 1 where somebody placed it; a track nobody
ended goes on to the last frame, and its ``window`` attribute says where it ends. What a task did not show is not known
to be normal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from xml.etree.ElementTree import Element

from reward_model.data.formats.common import FormatError, Imported, TypeMap, check_corners, map_type
from reward_model.data.formats.cvat_parts import Coverage, Part, count_of, coverage_of, gaps_between, matched_parts
from reward_model.data.formats.shapes import cvat_corners
from reward_model.data.formats.tracks import Corners, ExpandedTrack, Keyframe, expand, from_tracks
from reward_model.data.line_checks import check_object
from reward_model.data.records import Record, edited
from reward_model.data.validation import Problem
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange

SALIENCY = {"salient": True, "non-salient": False, "unknown": None}
StoredSize = Callable[[Record], tuple[int, int] | None]
_WHOLE = (0.0, 0.0, float(BOX_SCALE), float(BOX_SCALE))


def from_cvat(
    files: Mapping[str, bytes],
    base: Iterable[Record],
    *,
    type_map: TypeMap | None = None,
    stored_size: StoredSize | None = None,
) -> Imported:
    """The records of exported XML documents.

    Args:
        files: content by name. Each task or job in them is matched to its record by the task's name (the
            ``video_id``), by the video file it was made from, or, if the document holds only one, by the document's
            name without the suffix. Jobs that cover parts of one video are put together.
        base: the records the tasks were made from: CVAT knows neither rates nor prompts. A video that was shown as a
            whole and has no track is normal.
        type_map: label to type where the project has labels of its own; None leaves a label out.
        stored_size: width and height of a video whose pixels are not square, as CVAT shows it; asked where the size of
            a task is not that of its record.
    """
    known = list(base)
    parts, problems = matched_parts(files, known)
    spoilt: set[str] = set()
    by_id = {r.truth.video_id: r for r in known}
    records = []
    for video_id, mine in parts.items():
        reading = _Reading(by_id[video_id], type_map, stored_size)
        for part in mine:
            try:
                reading.add(part)
            except ValueError as error:
                spoilt.add(video_id)
                problems.append(Problem(part.document, video_id, f"{part.name}: {error}"))
        if video_id in spoilt:
            continue
        where, name = mine[0].document, mine[0].name
        try:
            done = reading.record()
        except ValueError as error:
            problems.append(Problem(where, video_id, f"{name}: {error}"))
            continue
        problems += [Problem(where, video_id, f"{name}: {message}", "warning") for message in reading.warnings]
        faults = [f.message for f in check_object(done.to_dict()) if f.severity == "error"]
        problems += [Problem(where, video_id, f"{name}: {message}") for message in faults]
        records += [] if faults else [done]
    return Imported(records, problems)


@dataclass
class _Group:
    """The tracks of one anomaly in one part, and the words that the first of them states."""

    name: str
    type: AnomalyType
    coverage: Coverage
    words: dict[str, str]
    numbered: bool
    tracks: list[ExpandedTrack] = field(default_factory=list)


class _Reading:
    """The parts of one video on their way to its record."""

    def __init__(self, record: Record, types: TypeMap | None, stored_size: StoredSize | None) -> None:
        self.base, self.types, self.stored_size, self.warnings = record, types, stored_size, list[str]()
        self.covered: list[tuple[Coverage, str]] = []
        self.found: list[tuple[_Group, Anomaly]] = []
        self.left_out = False
        self.size = (record.truth.width, record.truth.height)

    def add(self, part: Part) -> None:
        truth = self.base.truth
        self.size = self._size(part.meta)
        coverage = coverage_of(part.meta, truth.num_frames)
        self.covered.append((coverage, part.name))
        groups: dict[str, _Group] = {}
        for index, track in enumerate(part.tracks):
            self._track(track, index, coverage, groups)
        self.found += [(group, self._anomaly(group)) for group in groups.values()]

    def _size(self, meta: Element) -> tuple[int, int]:
        """Width and height of the pictures that the boxes of a task are placed in."""
        shown = {"width": self.base.truth.width, "height": self.base.truth.height}
        stated = {tag: count_of(meta, f".//original_size/{tag}") for tag in shown}
        sizes = {tag: size if (size := stated[tag]) is not None else shown[tag] for tag in shown}
        found = sizes["width"], sizes["height"]
        other = next((tag for tag in shown if sizes[tag] != shown[tag]), None)
        if other is not None and (self.stored_size is None or found != self.stored_size(self.base)):
            raise FormatError(
                f"the task's video has {other} {sizes[other]}, the record {shown[other]}; they are not the same video"
            )
        return found

    def record(self) -> Record:
        """Everything put together.

        Raises:
            FormatError: what was shown does not add up to the video, or two annotations of it were given.
        """
        self._check_covered()
        anomalies: list[tuple[_Group, Anomaly]] = []
        for group, anomaly in self.found:
            before = next((k for k, entry in enumerate(anomalies) if _continues(entry, group, anomaly)), None)
            if before is None:
                anomalies.append((group, anomaly))
            else:
                anomalies[before] = (group, _joined(anomalies[before][1], anomaly))
        if self.left_out and not anomalies:
            raise FormatError("all of its labels are left out by the type map; leave the task out of the export")
        truth = replace(self.base.truth, anomalies=tuple(a for _, a in anomalies))
        return edited(replace(self.base, truth=truth), self.base)

    def _check_once(self, num_frames: int) -> None:
        whole = [name for (first, last, step), name in self.covered if first < step and last + step >= num_frames]
        if whole and len(self.covered) > 1:
            others = [name for _, name in self.covered if name != whole[0]] or whole[1:]
            raise FormatError(f"the whole video is annotated here and again in {others[0]}; give one of the two")

    def _check_covered(self) -> None:
        num_frames = self.base.truth.num_frames
        self._check_once(num_frames)
        steps = max(c.step for c, _ in self.covered)
        gaps = gaps_between([c for c, _ in sorted(self.covered)], num_frames)
        if gaps and not self.found:
            raise FormatError(
                f"frames {', '.join(gaps)} were not shown and nothing is marked on the others, so nobody has found the "
                "video normal; add the jobs of the other frames, or cut the video"
            )
        if gaps:
            self.warnings.append(f"frames {', '.join(gaps)} were not shown; what is wrong with them is not known")
        if steps > 1:
            self.warnings.append(
                f"the task shows every {steps}th frame: windows begin and end on those, boxes between are interpolated"
            )

    def _track(self, track: Element, index: int, coverage: Coverage, groups: dict[str, _Group]) -> None:
        words = _words(track)
        kind = self._type(track.get("label", ""))
        if kind is None:
            return
        stated = words.get("anomaly", "").strip()
        name = stated or f"track {index}"
        group = groups.setdefault(name, _Group(name, kind, coverage, dict(words), bool(stated)))
        if group.type is not kind:
            raise FormatError(
                f"anomaly {name} has tracks of {group.type.value!r} and {kind.value!r}; give it one label"
            )
        for key, value in words.items():
            if key in ("window", "no_box") and group.words.setdefault(key, value).strip() != value.strip():
                raise FormatError(
                    f"anomaly {name}: its tracks state {key} {group.words[key]!r} and {value!r}; make them agree"
                )
            if group.words.setdefault(key, value) != value:
                self.warnings.append(f"anomaly {name}: its tracks state two texts for {key}; the first is kept")
        keys = self._keyframes(track, index, coverage)
        if words.get("no_box", "").lower() == "true" and any(k.visible and not _is_whole(k.corners) for k in keys):
            self.warnings.append(f"anomaly {name}: no_box is ticked, so its boxes are left out; untick it to keep them")
        found = expand(keys, self.base.truth.num_frames)
        group.tracks.append(
            ExpandedTrack({n: b for n, b in found.boxes.items() if n <= coverage.last}, found.open_from)
        )

    def _type(self, label: str) -> AnomalyType | None:
        if self.types is None:
            return AnomalyType.parse(label)
        kind = map_type(label, self.types)
        if kind is None:
            self.left_out = True
            self.warnings.append(f"a track of {label!r} is left out by the type map")
        return kind

    def _keyframes(self, track: Element, index: int, coverage: Coverage) -> list[Keyframe]:
        sizes = self.size * 2
        found: list[Keyframe] = []
        made: set[str] = set()
        for shape in track:
            if shape.tag == "attribute":
                continue
            frame = _frame(shape, index)
            if (frame - coverage.first) % coverage.step:
                raise FormatError(
                    f"track {index}: frame {frame} is not one the task shows (every {coverage.step}th from "
                    f"{coverage.first}); export it with a current CVAT, which writes the video's own frame numbers"
                )
            visible, placed = shape.get("outside", "0") != "1", shape.get("keyframe", "1") != "0"
            try:
                pixels, what = cvat_corners(shape.tag, shape.attrib)
                x0, y0, x1, y1 = (v * BOX_SCALE / size for v, size in zip(pixels, sizes, strict=True))
                corners: Corners = (x0, y0, x1, y1)
                if visible:
                    check_corners(corners, frame)
                    made |= {what} if what else set()
            except FormatError as error:
                if visible:
                    raise FormatError(f"track {index}, frame {frame}: {error}") from None
                # Where a shape that is gone would be is of no consequence.
                corners = found[-1].corners if found else _WHOLE
            found.append(Keyframe(frame, corners, visible=visible, placed=placed))
        if not found:
            raise FormatError(f"track {index} holds no shape; delete it")
        for what in sorted(made):
            self.warnings.append(f"track {index}: {what} became the upright box around it; check that it is tight")
        return _endings(found, coverage.step, self.base.truth.num_frames)

    def _anomaly(self, group: _Group) -> Anomaly:
        frames = self._window(group)
        boxless = group.words.get("no_box", "").lower() == "true"
        # A track nobody ended runs to the end of the video; its window says where it ends.
        kept = [
            {n: b for n, b in t.boxes.items() if t.open_from is None or n < t.open_from or n <= frames.end}
            for t in group.tracks
        ]
        return Anomaly(
            type=group.type,
            frames=frames,
            boxes={} if boxless else from_tracks(kept),
            objects=_objects(group.words.get("objects", "")),
            reason=group.words.get("reason", ""),
            region=group.words.get("region", ""),
            salient=SALIENCY.get(group.words.get("salient", "")),
        )

    def _window(self, group: _Group) -> FrameRange:
        text = group.words.get("window", "").strip()
        frames = sorted({n for t in group.tracks for n in t.boxes if t.open_from is None or n < t.open_from})
        if text:
            found = re.fullmatch(r"(\d{1,9})\s*[-–]\s*(\d{1,9})", text)
            if not found:
                raise FormatError(f"anomaly {group.name}: window {text!r} must read like 3-17, both frames included")
            return self._native(group, int(found[1]), int(found[2]), frames)
        if not frames:
            raise FormatError(f"anomaly {group.name} is never visible and states no window")
        ends = [t.open_from - 1 for t in group.tracks if t.open_from is not None and t.open_from <= group.coverage.last]
        if ends:
            raise FormatError(
                f"anomaly {group.name} states no window and nobody ended its track (last placed on frame {max(ends)}); "
                f"write its window, such as {frames[0]}-{max(ends)}, or mark where it is outside"
            )
        return FrameRange(frames[0], frames[-1])

    def _native(self, group: _Group, start: int, end: int, drawn: Sequence[int]) -> FrameRange:
        """A window that was typed: in frames of the video, or in those that CVAT showed of a part of it."""
        first, last, step = group.coverage
        stated = FrameRange(start, end)
        if (first, step) == (0, 1):
            return stated
        typed = FrameRange(first + start * step, first + end * step)
        fits = [
            w
            for w in (stated, typed)
            if first <= w.start and w.end < last + step and all(w.start - step <= n <= w.end + step for n in drawn)
        ]
        if len(fits) != 1:
            raise FormatError(
                f"anomaly {group.name}: window {start}-{end} can be read in frames of the video and in those of the "
                f"task, which begins at frame {first} and shows every {step}th; write the window in frames of the "
                "video, around the boxes"
            )
        if fits[0] == typed:
            self.warnings.append(
                f"anomaly {group.name}: window {start}-{end} counts the task's frames; it is {typed} of the video"
            )
        return fits[0]


def _frame(shape: Element, index: int) -> int:
    text = shape.get("frame", "")
    if not re.fullmatch(r"\d{1,9}", text):
        raise FormatError(f"track {index}: a {shape.tag} has frame={text!r}; it must be a whole number below 10^9")
    return int(text)


def _endings(keys: Sequence[Keyframe], step: int, num_frames: int) -> list[Keyframe]:
    """Keyframes for :func:`expand`: a task that skips frames does not know where between two a shape ended, so it ends
    where it was last seen. CVAT also marks an end behind the last frame, which says nothing.
    """
    ordered = sorted(keys, key=lambda key: key.frame)
    gone = {a.frame for a, b in pairwise(ordered) if step > 1 and a.visible and not b.visible}
    kept = [k._replace(ends=True) if k.frame in gone else k for k in ordered]
    return [k for k in kept if k.visible or k.frame <= num_frames or k.frame >= num_frames + step]


def _continues(entry: tuple[_Group, Anomaly], group: _Group, anomaly: Anomaly) -> bool:
    """True if an anomaly of a later job continues one of an earlier job: the same number and type, and windows that
    touch.
    """
    before, old = entry
    same = before.numbered and group.numbered and before.name == group.name and before.type is group.type
    near = anomaly.frames.start <= old.frames.end + group.coverage.step and old.frames.start <= anomaly.frames.end + 1
    return same and before.coverage != group.coverage and near


def _joined(old: Anomaly, new: Anomaly) -> Anomaly:
    """One anomaly of two jobs. Where both show a frame, the boxes of the earlier one count: jobs overlap."""
    frames = FrameRange(min(old.frames.start, new.frames.start), max(old.frames.end, new.frames.end))
    boxes: dict[int, tuple[Box, ...]] = {**new.boxes, **old.boxes}
    return replace(
        old,
        frames=frames,
        boxes=dict(sorted(boxes.items())),
        reason=old.reason or new.reason,
        region=old.region or new.region,
        objects=old.objects or new.objects,
        salient=new.salient if old.salient is None else old.salient,
    )


def _is_whole(corners: Sequence[float]) -> bool:
    return all(abs(a - b) < 1 for a, b in zip(corners, _WHOLE, strict=True))


def _words(track: Element) -> dict[str, str]:
    """The attributes of a track: at the track itself, or at its boxes, where the first that says something counts."""
    words: dict[str, str] = {}
    for attribute in track.iter("attribute"):
        name, value = attribute.get("name", ""), attribute.text or ""
        if value and not words.get(name):
            words[name] = value
    return words


def _objects(text: str) -> tuple[str, ...]:
    if text.startswith("["):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list):
            return tuple(str(item) for item in items)
    return tuple(part.strip() for part in text.split(";") if part.strip())
