"""Label Studio's JSON export, with or without interpolated keyframes, back to records.

What the page counted need not be the video's frames: it divides time by the ``frameRate`` of the project (24 where none
is set). A rectangle brings along how many frames the page counted in how many seconds, so the rate is known and frames
are converted. A rectangle nobody ended lives to the end of the video, and an export with interpolated keyframes writes
all of it out (``auto``); its window says where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from statistics import median
from typing import Any
from urllib.parse import unquote

from reward_model.data.formats.common import FormatError, Imported, TypeMap, check_corners, map_type
from reward_model.data.formats.shapes import is_turned, turned
from reward_model.data.formats.tracks import ExpandedTrack, Keyframe, expand, from_tracks
from reward_model.data.line_checks import check_object
from reward_model.data.records import Record, edited
from reward_model.data.validation import FPS_TOLERANCE, Problem
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange
from reward_model.strict_json import is_int, is_number

SALIENCY = {"salient": True, "non-salient": False}
PERCENT = 10  # grid units in one percent
#: Results about the whole task that hold no region; another than these is an error, because it could hold one.
WORDS = ("choices", "textarea")
ASIDE = ("relation", "rating", "number", "datetime", "taxonomy", "pairwise", "ranker")
CONTROLS = ("status", "reason", "region", "objects", "salient")


def from_label_studio(
    tasks: Sequence[Any],
    *,
    base: Iterable[Record] = (),
    annotator: int | None = None,
    skip_open: bool = False,
    frame_rate: float | None = None,
    type_map: TypeMap | None = None,
) -> Imported:
    """The records of exported tasks (the JSON export, with or without interpolated keyframes).

    Args:
        base: the records the tasks were made from, by ``video_id`` or by the name of the video's file; tasks written
            by :func:`~reward_model.data.formats.label_studio.to_label_studio` carry their own.
        annotator: take this user's annotation (``completed_by``); by default the last one that was not cancelled.
        skip_open: leave out tasks nobody has annotated; otherwise each is an error.
        frame_rate: the ``frameRate`` of the project's configuration, where it is not the videos' own and no rectangle
            tells it.
        type_map: label to type where the project has labels of its own; None leaves a label out.
    """
    known = list(base)
    records, problems = [], []
    for number, task in enumerate(tasks, 1):
        name = ""
        try:
            record = _base_of(task, known)
            name = record.truth.video_id
            annotation = _pick(task, annotator)
            if annotation is None:
                if not skip_open:
                    problems.append(Problem(number, name, "nobody has annotated this task; --skip-open leaves it out"))
                continue
            reading = _Reading(record, type_map)
            done = reading.read(annotation, task["data"].get("fps"), frame_rate)
            problems += [Problem(number, name, message, "warning") for message in reading.warnings]
            faults = [f.message for f in check_object(done.to_dict()) if f.severity == "error"]
            problems += [Problem(number, name, message) for message in faults]
            records += [] if faults else [done]
        except ValueError as error:
            problems.append(Problem(number, name, str(error)))
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            problems.append(Problem(number, name, f"not a Label Studio task: {type(error).__name__} {error}"))
    return Imported(records, problems)


def _base_of(task: object, known: Sequence[Record]) -> Record:
    if not isinstance(task, dict):
        raise FormatError("not a Label Studio task: expected an object with 'data'")
    if not isinstance(task.get("data"), dict):
        if "annotation_id" in task or "lead_time" in task:
            raise FormatError(
                "this is the JSON-MIN export, which does not keep which words belong to which window; export as JSON"
            )
        raise FormatError("not a Label Studio task: expected an object with 'data'")
    plain = task["data"].get("record") or {"video_id": task["data"].get("video_id")}
    records = [r for r in known if r.truth.video_id == plain.get("video_id")] or _by_file(task["data"], known)
    if len(records) == 1:
        return records[0]
    plain = {**plain, "status": "normal", "anomalies": []}
    faults = [f.message for f in check_object(plain) if f.severity == "error"]
    if faults:
        raise FormatError(f"the task names no known video ({faults[0]}); pass the annotation file it was made from")
    return Record.from_dict(plain)


def _by_file(data: Mapping[str, Any], known: Sequence[Record]) -> list[Record]:
    """Records whose file has the name of the task's video; an upload to Label Studio has eight digits before it."""
    video = data.get("video")
    if not isinstance(video, str):
        return []
    name = PurePosixPath(unquote(video.rpartition("?d=")[2])).name
    names = {name, re.sub(r"^[0-9a-f]{8}-", "", name)}
    return [r for r in known if PurePosixPath(r.video).name in names]


def _pick(task: Mapping[str, Any], annotator: int | None) -> dict[str, Any] | None:
    done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    if annotator is not None:
        done = [a for a in done if _user(a) == annotator]
    return done[-1] if done else None


def _user(annotation: Mapping[str, Any]) -> object:
    user = annotation.get("completed_by")
    return user.get("id") if isinstance(user, dict) else user


@dataclass
class _Segment:
    """A segment on its way to an anomaly."""

    name: str
    type: AnomalyType
    frames: FrameRange
    tracks: list[dict[int, Box]] = field(default_factory=list)


class _Reading:
    """One annotation being read against the record it is about."""

    def __init__(self, record: Record, types: TypeMap | None) -> None:
        self.record, self.types, self.warnings = record, types, list[str]()
        #: Native frames per frame of the page.
        self.pace = 1.0

    def read(self, annotation: Mapping[str, Any], task_fps: object, frame_rate: float | None) -> Record:
        """The record with this annotation's anomalies; the annotator's id goes to the extra key ``annotator``."""
        results = list(annotation["result"])
        self._refuse_strangers(results)
        self.pace = self._pace(results, task_fps, frame_rate)
        segments = [s for r in results if r["type"] == "timelinelabels" for s in self._segments(r)]
        for result in results:
            if result["type"] == "videorectangle":
                self._attach(result, segments)
        texts = {(r.get("id"), str(r["from_name"]).lower()): _words(r["value"]) for r in results if r["type"] in WORDS}
        anomalies = tuple(_anomaly(s, texts) for s in segments)
        left_out = not anomalies and any(r["type"] in ("timelinelabels", "videorectangle") for r in results)
        if left_out:
            raise FormatError("all of its labels are left out by the type map; leave the task out of the export")
        self._check_status(results, len(anomalies))
        user = _user(annotation)
        done = edited(replace(self.record, truth=replace(self.record.truth, anomalies=anomalies)), self.record)
        return done if user is None else replace(done, extra={**done.extra, "annotator": str(user)})

    def _refuse_strangers(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Reports what is not understood: an error if it could be a region, else a warning."""
        for result in results:
            kind = result["type"]
            if kind in ASIDE and kind != "relation":
                self.warnings.append(f"a {kind} ({result.get('from_name')!r}) has no meaning here and is left out")
            elif kind in WORDS and str(result["from_name"]).lower() not in CONTROLS:
                self.warnings.append(
                    f"the words of {result['from_name']!r} are left out; known are {', '.join(CONTROLS)}"
                )
            elif kind not in (*WORDS, *ASIDE, "timelinelabels", "videorectangle"):
                raise FormatError(
                    f"a region of type {kind!r} is not understood; draw it as a rectangle (videorectangle) "
                    "or a segment of the timeline (timelinelabels)"
                )

    def _check_status(self, results: Sequence[Mapping[str, Any]], count: int) -> None:
        found = [r for r in results if r["type"] == "choices" and str(r["from_name"]).lower() == "status"]
        said = [[word.strip().lower() for word in _words(r["value"])] for r in found]
        if not said and count:
            self.warnings.append(f"no status was chosen; {count} window(s) make it abnormal")
        elif not said:
            raise FormatError("no status was chosen; without it an untouched task would pass as normal")
        elif said[-1] != [("abnormal" if count else "normal")]:
            raise FormatError(f"status {said[-1]} contradicts {count} window(s) on the timeline")

    def _pace(self, results: Sequence[Mapping[str, Any]], task_fps: object, frame_rate: float | None) -> float:
        truth = self.record.truth
        values = [r["value"] for r in results if r["type"] == "videorectangle"]
        shown = page_rate(values, truth.num_frames, truth.fps)
        if frame_rate is not None and shown is not None and _differ(shown, frame_rate):
            raise FormatError(
                f"the page counted {shown:g} frames a second, not the {frame_rate:g} that were stated; "
                "leave the frame rate out; the file states it"
            )
        shown = shown if shown is not None else frame_rate
        if shown is None and is_number(task_fps) and task_fps > 0:
            shown = float(task_fps)
        if shown is None:
            if any(r["type"] == "timelinelabels" for r in results):
                self.warnings.append(
                    f"nothing tells the frameRate of the project; frames are taken for those of the video "
                    f"({truth.fps:g} fps). State it if it was another: the default of Label Studio is 24"
                )
            return 1.0
        if not _differ(shown, truth.fps):
            return 1.0
        self.warnings.append(
            f"the page counted {shown:g} frames a second of a video at {truth.fps:g} fps; frames are converted"
        )
        return truth.fps / shown

    def _native(self, shown: float) -> int:
        """The frame of the video, from 0, that the page showed as frame ``shown``, from 1."""
        return int((shown - 1) * self.pace + 1e-6)

    def _segments(self, result: Mapping[str, Any]) -> list[_Segment]:
        kind = self._label(result["value"].get("timelinelabels"), "a timeline window")
        if kind is None:
            return []
        ranges = [
            FrameRange(self._native(r["start"]), self._inside(self._native(r["end"]))) for r in _ranges(result["value"])
        ]
        return [_Segment(str(result["id"]), kind, frames) for frames in ranges]

    def _inside(self, frame: int) -> int:
        # The browser may count one frame more than the container states.
        return frame - 1 if frame == self.record.truth.num_frames else frame

    def _attach(self, result: Mapping[str, Any], segments: list[_Segment]) -> None:
        kind = self._label(result["value"].get("labels"), "a box")
        if kind is None:
            return
        track = expand(self._keyframes(result["value"]["sequence"]), self.record.truth.num_frames)
        if not track.boxes:
            return
        owner = self._owner(str(result["id"]), kind, track, segments)
        if owner is None:
            if track.open_from is not None:
                raise FormatError(
                    f"a box of {kind.value!r} has no window and nobody ended it (last placed on frame "
                    f"{track.open_from - 1}); mark its window on the timeline, or end its lifespan"
                )
            frames = FrameRange(min(track.boxes), max(track.boxes))
            self.warnings.append(f"a box of {kind.value!r} has no window of that type; {frames} is taken from the box")
            owner = _Segment(str(result["id"]), kind, frames)
            segments.append(owner)
        # A rectangle nobody ended runs to the end of the video; its window says where it ends.
        stop = owner.frames.end
        kept = {n: b for n, b in track.boxes.items() if track.open_from is None or n < track.open_from or n <= stop}
        owner.tracks.append(kept)

    def _owner(
        self, name: str, kind: AnomalyType, track: ExpandedTrack, segments: Sequence[_Segment]
    ) -> _Segment | None:
        for segment in segments:
            if name.startswith(f"{segment.name}-box-"):
                if segment.type is not kind:
                    self.warnings.append(
                        f"a box says {kind.value!r}, its window {segment.type.value!r}; the window wins"
                    )
                return segment
        # One frame beside the window counts: boxes on the edge of an absence stand there.
        shared = {
            k: sum(s.frames.start - 1 <= n <= s.frames.end + 1 for n in track.boxes)
            for k, s in enumerate(segments)
            if s.type is kind
        }
        best = max(shared, key=lambda k: shared[k], default=None)
        return segments[best] if best is not None and shared[best] else None

    def _label(self, labels: object, what: str) -> AnomalyType | None:
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
            raise FormatError(f"{what} carries {labels!r}; it needs exactly one label")
        if self.types is None:
            return AnomalyType.parse(labels[0])
        kind = map_type(labels[0], self.types)
        if kind is None:
            self.warnings.append(f"{what} of {labels[0]!r} is left out by the type map")
        return kind

    def _keyframes(self, sequence: Any) -> list[Keyframe]:
        if not isinstance(sequence, list) or not sequence:
            raise FormatError(f"a box has the sequence {sequence!r}; it needs a list of keyframes")
        found, angles = [], set[float]()
        for item in sequence:
            place = [item[key] for key in ("x", "y", "width", "height")]
            if not all(is_number(v) for v in place) or not is_number(item["frame"]) or item["frame"] < 1:
                raise FormatError(f"keyframe {dict(item)} needs numbers in percent and a frame from 1")
            x, y, width, height = (v * PERCENT for v in place)
            corners = (x, y, x + width, y + height)
            angle = item.get("rotation") or 0
            if not is_number(angle):
                raise FormatError(f"keyframe {dict(item)} has a rotation that is not a number")
            if is_turned(angle):
                corners = self._upright(corners, angle)
                angles.add(angle)
            check_corners(corners, self._native(item["frame"]))
            ends, placed = not item.get("enabled", True), not item.get("auto", False)
            found.append(Keyframe(self._native(item["frame"]), corners, ends=ends, placed=placed))
        if angles:
            shown = ", ".join(f"{a:g}" for a in sorted(angles)[:3])
            self.warnings.append(f"a box turned by {shown} degrees became the upright box around it; check it is tight")
        return found

    def _upright(self, corners: tuple[float, float, float, float], angle: float) -> tuple[float, float, float, float]:
        """Label Studio turns a box about its upper left corner, in pixels; grid units are not square."""
        width, height = self.record.truth.width, self.record.truth.height
        x0, y0, x1, y1 = corners
        a, b, c, d = turned((x0 * width, y0 * height, x1 * width, y1 * height), angle, (x0 * width, y0 * height))
        return a / width, b / height, c / width, d / height


def page_rate(values: Sequence[Mapping[str, Any]], num_frames: int, fps: float) -> float | None:
    """Frames per second at which the page counted, from what its rectangles say; None if they say nothing.

    Args:
        values: the ``value`` of each rectangle, with ``framesCount``, ``duration`` and ``sequence``.
        num_frames, fps: length and frame rate of the video.

    Raises:
        FormatError: the rectangles contradict each other, or were drawn on a video of another length.
    """
    count = _frames_counted(values)
    if count is None:
        return None
    if abs(count - num_frames) <= 1:
        return fps
    durations = [v["duration"] for v in values if is_number(v.get("duration")) and v["duration"] > 0]
    times = _rate_of_times(values)
    if not durations and times is None:
        raise FormatError(
            f"the page counted {count} frames (framesCount) and the video has {num_frames}: its frameRate was not "
            f"{fps:g}, and no duration tells what it was; state it"
        )
    seconds = max(durations) if durations else count / (times or 1.0)
    rate = count / seconds
    # A page rounds its count up, so that of a short video tells the rate within one frame; keyframes tell it exactly.
    if times is not None and abs(times * seconds - count) <= 1:
        rate = times
    # A sound track that outlasts the pictures adds frames at the end, which nothing may be marked on.
    if _differ(rate, fps) and abs(seconds - num_frames / fps) > max(0.02 * seconds, 2 / min(rate, fps)):
        raise FormatError(
            f"the page played {seconds:.2f} s (framesCount {count}), and the record's video lasts "
            f"{num_frames / fps:.2f} s; they are not the same video"
        )
    return rate


def _frames_counted(values: Sequence[Mapping[str, Any]]) -> int | None:
    """Frames that the page counted, on which all rectangles must agree but for one; None where they do not say."""
    counts = [v["framesCount"] for v in values if is_int(v.get("framesCount")) and v["framesCount"] > 0]
    if counts and max(counts) - min(counts) > 1:
        raise FormatError(
            f"its boxes were drawn at different frame rates (framesCount {min(counts)} and {max(counts)}); "
            "submit the task again with one frameRate"
        )
    return max(counts, default=None)


def _rate_of_times(values: Sequence[Mapping[str, Any]]) -> float | None:
    """Frames per second from the keyframes, which tell frame and time; None if they do not agree."""
    items = [i for v in values for i in v.get("sequence") or () if isinstance(i, dict)]
    told = [(i["frame"], i["time"]) for i in items if is_number(i.get("frame")) and is_number(i.get("time"))]
    rates = [frame / time for frame, time in told if time > 0]
    if not rates:
        return None
    middle = median(rates)
    return middle if middle > 0 and all(abs(r - middle) <= 0.002 * middle for r in rates) else None


def _differ(rate: float, other: float) -> bool:
    return abs(rate - other) > FPS_TOLERANCE * other


def _anomaly(segment: _Segment, texts: Mapping[tuple[Any, str], list[str]]) -> Anomaly:
    def words(key: str) -> list[str]:
        return texts.get((segment.name, key), [])

    salient = words("salient")
    return Anomaly(
        type=segment.type,
        frames=segment.frames,
        boxes=from_tracks(segment.tracks),
        objects=tuple(words("objects")),
        reason="\n".join(words("reason")),
        region="\n".join(words("region")),
        salient=SALIENCY.get(salient[0]) if salient else None,
    )


def _words(value: Mapping[str, Any]) -> list[str]:
    words = value.get("text", value.get("choices", []))
    return [words] if isinstance(words, str) else [str(w) for w in words]


def _ranges(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ranges = value.get("ranges") or []
    for r in ranges:
        if not (is_number(r.get("start")) and is_number(r.get("end")) and 1 <= r["start"] <= r["end"]):
            raise FormatError(f"timeline range {r} must satisfy 1 <= start <= end; Label Studio counts from 1")
    if not ranges:
        raise FormatError("a segment of the timeline has no range; delete it, or mark its frames")
    return list(ranges)
