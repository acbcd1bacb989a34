"""Label Studio: records to pre-annotated tasks, corrected tasks back to records (F-14).

Each anomaly is a segment of a ``TimelineLabels`` track plus one ``VideoRectangle`` region per box track; reason,
region, objects and saliency are per-region texts and choices of the segment; the status is a choice about the whole
video.
Label Studio counts frames from 1, places boxes in percent, and keeps keyframes: ``enabled`` false is the last frame
that shows the box. Its frame numbers follow the ``frameRate`` of the labelling configuration, which therefore reads
the task's own ``$fps``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from xml.sax.saxutils import quoteattr

from reward_model.data.formats.common import FormatError, Imported, map_type
from reward_model.data.formats.tracks import Keyframe, Track, expand, from_tracks, keyframes, to_tracks
from reward_model.data.line_checks import check_object, is_number
from reward_model.data.records import Record
from reward_model.data.validation import Problem
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange

SALIENCY = {"salient": True, "non-salient": False}
PERCENT = 10  # grid units in one percent
TYPE_NAMES = {t.value: t for t in AnomalyType}


def labeling_config() -> str:
    """The labelling configuration whose names these tasks use; paste it into the project's settings."""
    labels = "\n".join(f"    <Label value={quoteattr(t.value)}/>" for t in AnomalyType)
    texts = "\n".join(
        f'  <TextArea name="{name}" toName="video" perRegion="true" maxSubmissions="{limit}" placeholder="{name}"/>'
        for name, limit in (("reason", 1), ("region", 1), ("objects", 20))
    )
    return (
        "<View>\n"
        '  <Choices name="status" toName="video" choice="single" required="true">\n'
        '    <Choice value="normal"/><Choice value="abnormal"/>\n  </Choices>\n'
        '  <Video name="video" value="$video" frameRate="$fps"/>\n'
        f'  <TimelineLabels name="window" toName="video">\n{labels}\n  </TimelineLabels>\n'
        '  <VideoRectangle name="box" toName="video"/>\n'
        f'  <Labels name="boxLabels" toName="video">\n{labels}\n  </Labels>\n{texts}\n'
        '  <Choices name="salient" toName="video" perRegion="true" choice="single">\n'
        '    <Choice value="salient"/><Choice value="non-salient"/>\n  </Choices>\n</View>\n'
    )


def to_label_studio(
    records: Iterable[Record], *, video_prefix: str = "", as_annotations: bool = False
) -> list[dict[str, Any]]:
    """One task per record, ready to be imported as JSON.

    Args:
        video_prefix: put before each ``video`` so that the browser finds it, such as ``/data/local-files/?d=``.
        as_annotations: write finished annotations instead of predictions (pre-annotations).
    """
    tasks = []
    for record in records:
        plain = {k: v for k, v in record.to_dict().items() if k not in ("anomalies", "status")}
        filled: dict[str, Any] = {"result": list(_results(record))}
        if not as_annotations:
            filled["model_version"] = "cac-align"
        tasks.append(
            {
                "data": {"video": video_prefix + record.video, "fps": record.truth.fps, "record": plain},
                "annotations" if as_annotations else "predictions": [filled],
            }
        )
    return tasks


def _results(record: Record) -> Iterable[dict[str, Any]]:
    truth = record.truth
    yield _result("status", "status", "choices", {"choices": [truth.status]})
    for number, anomaly in enumerate(truth.anomalies):
        name = f"anomaly-{number}"
        ranges = [{"start": anomaly.frames.start + 1, "end": anomaly.frames.end + 1}]
        yield _result(name, "window", "timelinelabels", {"ranges": ranges, "timelinelabels": [anomaly.type.value]})
        texts = {"reason": [anomaly.reason], "region": [anomaly.region], "objects": list(anomaly.objects)}
        for key, lines in texts.items():
            if any(lines):
                yield _result(name, key, "textarea", {"text": lines})
        if anomaly.salient is not None:
            yield _result(name, "salient", "choices", {"choices": ["salient" if anomaly.salient else "non-salient"]})
        for k, track in enumerate(to_tracks(anomaly.boxes)):
            value = {
                "framesCount": truth.num_frames,
                "duration": truth.num_frames / truth.fps,
                "sequence": [_sequence_item(key, truth.fps) for key in keyframes(track)],
                "labels": [anomaly.type.value],
            }
            yield _result(f"{name}-box-{k}", "box", "videorectangle", value)


def _result(name: str, control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "from_name": control, "to_name": "video", "type": kind, "value": value}


def _sequence_item(key: Keyframe, fps: float) -> dict[str, Any]:
    x0, y0, x1, y1 = (v / PERCENT for v in key.corners)
    # Without a rotation Label Studio interpolates wrongly (its issue 5559).
    place = {"x": x0, "y": y0, "width": round(x1 - x0, 6), "height": round(y1 - y0, 6), "rotation": 0}
    return {"frame": key.frame + 1, "enabled": not key.ends, **place, "time": key.frame / fps}


def from_label_studio(
    tasks: Sequence[Any], *, base: Iterable[Record] = (), annotator: int | None = None, skip_open: bool = False
) -> Imported:
    """The records of exported tasks (the JSON export, with or without interpolated keyframes).

    Args:
        base: the records the tasks were made from, by ``video_id``; tasks written by :func:`to_label_studio` carry
            their own.
        annotator: take this user's annotation (``completed_by``); by default the last one that was not cancelled.
        skip_open: leave out tasks nobody has annotated; otherwise each is an error.
    """
    known = {record.truth.video_id: record for record in base}
    records, problems = [], []
    for number, task in enumerate(tasks, 1):
        name = ""
        try:
            record = _base_of(task, known)
            name = record.truth.video_id
            annotation = _pick(task, annotator)
            if annotation is None:
                if not skip_open:
                    problems.append(Problem(number, name, "nobody has annotated this task"))
                continue
            reading = _Reading(record)
            done = reading.read(annotation)
            problems += [Problem(number, name, message, "warning") for message in reading.warnings]
            faults = [f.message for f in check_object(done.to_dict()) if f.severity == "error"]
            problems += [Problem(number, name, message) for message in faults]
            records += [] if faults else [done]
        except ValueError as error:
            problems.append(Problem(number, name, str(error)))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            problems.append(Problem(number, name, f"not a Label Studio task: {type(error).__name__} {error}"))
    return Imported(records, problems)


def _base_of(task: Any, known: Mapping[str, Record]) -> Record:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise FormatError("not a Label Studio task: expected an object with 'data'")
    plain = task["data"].get("record") or {"video_id": task["data"].get("video_id")}
    if plain.get("video_id") in known:
        return known[plain["video_id"]]
    plain = {**plain, "status": "normal", "anomalies": []}
    faults = [f.message for f in check_object(plain) if f.severity == "error"]
    if faults:
        raise FormatError(f"the task names no known video ({faults[0]}); pass the annotation file it was made from")
    return Record.from_dict(plain)


def _pick(task: Mapping[str, Any], annotator: int | None) -> dict[str, Any] | None:
    done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    if annotator is not None:
        done = [a for a in done if _user(a) == annotator]
    return done[-1] if done else None


def _user(annotation: Mapping[str, Any]) -> Any:
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

    def __init__(self, record: Record) -> None:
        self.record, self.warnings = record, list[str]()

    def read(self, annotation: Mapping[str, Any]) -> Record:
        """The record with this annotation's anomalies; the annotator's id goes to the extra key ``annotator``."""
        results = [r for r in annotation["result"] if r.get("type") != "relation"]
        segments = [s for r in results if r["type"] == "timelinelabels" for s in self._segments(r)]
        for result in results:
            if result["type"] == "videorectangle":
                self._attach(result, segments)
        texts = {(r["id"], r["from_name"]): _words(r["value"]) for r in results if r["type"] in ("textarea", "choices")}
        anomalies = tuple(_anomaly(s, texts) for s in segments)
        self._check_status(results, len(anomalies))
        extra = dict(self.record.extra)
        if _user(annotation) is not None:
            extra["annotator"] = str(_user(annotation))
        return replace(self.record, truth=replace(self.record.truth, anomalies=anomalies), extra=extra)

    def _check_status(self, results: Sequence[Mapping[str, Any]], count: int) -> None:
        said = [_words(r["value"]) for r in results if r["type"] == "choices" and r["from_name"] == "status"]
        if not said:
            raise FormatError("no status was chosen; without it an untouched task would pass as normal")
        if said[-1] != [("abnormal" if count else "normal")]:
            raise FormatError(f"status {said[-1]} contradicts {count} window(s) on the timeline")

    def _segments(self, result: Mapping[str, Any]) -> list[_Segment]:
        kind = _label(result["value"].get("timelinelabels"), "a timeline window")
        ranges = [FrameRange(int(r["start"]) - 1, self._inside(int(r["end"]) - 1)) for r in _ranges(result["value"])]
        return [_Segment(str(result["id"]), kind, frames) for frames in ranges]

    def _inside(self, frame: int) -> int:
        # The browser may count one frame more than the container states.
        return frame - 1 if frame == self.record.truth.num_frames else frame

    def _attach(self, result: Mapping[str, Any], segments: list[_Segment]) -> None:
        kind = _label(result["value"].get("labels"), "a box")
        track = expand([_keyframe(item) for item in result["value"]["sequence"]], self.record.truth.num_frames)
        if not track.boxes:
            return
        owner = self._owner(str(result["id"]), kind, track, segments)
        if owner is None:
            frames = FrameRange(min(track.boxes), max(track.boxes))
            self.warnings.append(f"a box of {kind.value!r} has no window of that type; {frames} is taken from the box")
            owner = _Segment(str(result["id"]), kind, frames)
            segments.append(owner)
        # A rectangle nobody ended runs to the end of the video; its window says where it ends.
        stop = owner.frames.end
        kept = {n: b for n, b in track.boxes.items() if track.open_from is None or n < track.open_from or n <= stop}
        owner.tracks.append(kept)

    def _owner(self, name: str, kind: AnomalyType, track: Track, segments: Sequence[_Segment]) -> _Segment | None:
        for segment in segments:
            if name.startswith(f"{segment.name}-box-"):
                if segment.type is not kind:
                    self.warnings.append(
                        f"a box says {kind.value!r}, its window {segment.type.value!r}; the window wins"
                    )
                return segment
        # One frame beside the window counts: boxes on the edge of an absence stand there (F-12).
        shared = {
            k: sum(s.frames.start - 1 <= n <= s.frames.end + 1 for n in track.boxes)
            for k, s in enumerate(segments)
            if s.type is kind
        }
        best = max(shared, key=lambda k: shared[k], default=None)
        return segments[best] if best is not None and shared[best] else None


def _anomaly(segment: _Segment, texts: Mapping[tuple[Any, Any], list[str]]) -> Anomaly:
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
    return list(ranges)


def _label(labels: Any, what: str) -> AnomalyType:
    if not isinstance(labels, list) or len(labels) != 1:
        raise FormatError(f"{what} carries {labels!r}; it needs exactly one label")
    try:
        return AnomalyType.parse(labels[0])
    except ValueError:
        found = map_type(labels[0], TYPE_NAMES)
        assert found is not None
        return found


def _keyframe(item: Mapping[str, Any]) -> Keyframe:
    place = [item[key] for key in ("x", "y", "width", "height")]
    if not all(is_number(v) for v in place) or not is_number(item["frame"]) or item["frame"] < 1:
        raise FormatError(f"keyframe {dict(item)} needs numbers in percent and a frame from 1")
    if item.get("rotation"):
        raise FormatError(f"frame {item['frame']}: a box turned by {item['rotation']} degrees; turn it back to 0")
    x, y, width, height = (v * PERCENT for v in place)
    return Keyframe(int(item["frame"]) - 1, (x, y, x + width, y + height), ends=not item.get("enabled", True))
