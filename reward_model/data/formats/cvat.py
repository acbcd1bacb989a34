"""CVAT: records to "CVAT for video 1.1" XML and back, one file per video (F-14).

Each box track of an anomaly is a ``track`` whose label is the anomaly's type. CVAT has no segments, so the window and
the words stand in attributes: ``anomaly`` (tracks with one number are one anomaly), ``window`` (``3-17``), ``reason``,
``region``, ``objects``, ``salient``, and ``no_box`` for an anomaly whose region nobody has drawn yet. CVAT counts
frames from 0, places boxes in pixels, and says ``outside`` on the first frame that no longer shows the box.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from reward_model.data.formats.common import FormatError, Imported
from reward_model.data.formats.safe_xml import parse_xml, xml_text
from reward_model.data.formats.tracks import Keyframe, Track, expand, from_tracks, keyframes, to_tracks
from reward_model.data.line_checks import check_object
from reward_model.data.records import Record
from reward_model.data.validation import Problem
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange

SALIENCY = {"salient": True, "non-salient": False, "unknown": None}
#: Attribute name, input type, values to choose from, default.
ATTRIBUTES = (
    ("anomaly", "text", "", ""),
    ("window", "text", "", ""),
    ("reason", "text", "", ""),
    ("region", "text", "", ""),
    ("objects", "text", "", ""),
    ("salient", "select", "\n".join(SALIENCY), "unknown"),
    ("no_box", "checkbox", "false", "false"),
)
_WHOLE = Box(0, 0, BOX_SCALE, BOX_SCALE)


def labels_config() -> str:
    """The label definitions for CVAT's raw label editor (JSON): five types, each with the attributes used here."""
    attributes = [
        {"name": name, "input_type": kind, "mutable": False, "values": values.split("\n"), "default_value": default}
        for name, kind, values, default in ATTRIBUTES
    ]
    labels = [{"name": t.value, "type": "rectangle", "attributes": attributes} for t in AnomalyType]
    return json.dumps(labels, indent=1) + "\n"


def to_cvat(record: Record) -> str:
    """The XML of one record; upload it to the task of that video as "CVAT 1.1"."""
    truth = record.truth
    root = Element("annotations")
    _text(root, "version", "1.1")
    _write_meta(SubElement(root, "meta"), record)
    number = 0
    for index, anomaly in enumerate(truth.anomalies):
        words = _attributes(index, anomaly)
        tracks = to_tracks(anomaly.boxes) or [dict.fromkeys(anomaly.frames.frames(), _WHOLE)]
        for track in tracks:
            element = SubElement(root, "track", id=str(number), label=anomaly.type.value, source="manual")
            _write_boxes(element, keyframes(track), record, words)
            number += 1
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _write_meta(meta: Element, record: Record) -> None:
    truth = record.truth
    task = SubElement(meta, "task")
    _text(task, "name", truth.video_id)
    _text(task, "size", str(truth.num_frames))
    _text(task, "mode", "interpolation")
    labels = SubElement(task, "labels")
    for kind in AnomalyType:
        label = SubElement(labels, "label")
        _text(label, "name", kind.value)
        group = SubElement(label, "attributes")
        for name, input_type, values, default in ATTRIBUTES:
            attribute = SubElement(group, "attribute")
            for tag, value in (("name", name), ("mutable", "False"), ("input_type", input_type)):
                _text(attribute, tag, value)
            _text(attribute, "default_value", default)
            _text(attribute, "values", values)
    size = SubElement(task, "original_size")
    _text(size, "width", str(truth.width))
    _text(size, "height", str(truth.height))
    _text(task, "source", PurePosixPath(record.video).name)


def _attributes(index: int, anomaly: Anomaly) -> dict[str, str]:
    plain = all(o and o == o.strip() and ";" not in o and not o.startswith("[") for o in anomaly.objects)
    return {
        "anomaly": str(index),
        "window": f"{anomaly.frames.start}-{anomaly.frames.end}",
        "reason": anomaly.reason,
        "region": anomaly.region,
        "objects": "; ".join(anomaly.objects) if plain else json.dumps(list(anomaly.objects), ensure_ascii=False),
        "salient": next(word for word, value in SALIENCY.items() if value is anomaly.salient),
        "no_box": "false" if anomaly.boxes else "true",
    }


def _write_boxes(track: Element, keys: Iterable[Keyframe], record: Record, words: Mapping[str, str]) -> None:
    for key in keys:
        _write_box(track, key.frame, key, record, words, outside=False)
        if key.ends and key.frame + 1 < record.truth.num_frames:
            _write_box(track, key.frame + 1, key, record, words, outside=True)


def _write_box(
    track: Element, frame: int, key: Keyframe, record: Record, words: Mapping[str, str], *, outside: bool
) -> None:
    sizes = (record.truth.width, record.truth.height) * 2
    corners = [f"{v * size / BOX_SCALE:.6f}" for v, size in zip(key.corners, sizes, strict=True)]
    flags = {"frame": str(frame), "outside": str(int(outside)), "occluded": "0", "keyframe": "1"}
    box = SubElement(track, "box", {**flags, **dict(zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))})
    box.set("z_order", "0")
    for name, value in words.items():
        _text(box, "attribute", value).set("name", name)


def _text(parent: Element, tag: str, text: str) -> Element:
    element = SubElement(parent, tag)
    element.text = xml_text(text)
    return element


def from_cvat(files: Mapping[str, bytes], base: Iterable[Record]) -> Imported:
    """The records of exported XML files.

    Args:
        files: content by file name. Each is matched to its record by the task's name (the ``video_id``), by the video
            file the task was made from, or by its own name without the suffix.
        base: the records the tasks were made from: CVAT knows neither rates nor prompts. A file without a track is a
            normal video.
    """
    known = list(base)
    records, problems = [], []
    for number, (name, data) in enumerate(files.items(), 1):
        try:
            root = parse_xml(data)
            record = _match(root, name, known)
            done = _read(root, record)
        except (FormatError, ValueError) as error:
            problems.append(Problem(number, "", f"{name}: {error}"))
            continue
        faults = [f.message for f in check_object(done.to_dict()) if f.severity == "error"]
        problems += [Problem(number, done.truth.video_id, f"{name}: {message}") for message in faults]
        records += [] if faults else [done]
    return Imported(records, problems)


def _match(root: Element, name: str, known: Iterable[Record]) -> Record:
    if root.tag != "annotations" or root.find("image") is not None:
        raise FormatError('not "CVAT for video 1.1"; export the task in that format')
    task, source = root.findtext("meta/*/name", ""), root.findtext(".//meta//source", "")
    by_id = {r.truth.video_id: r for r in known}
    by_file: dict[str, list[Record]] = {}
    for record in by_id.values():
        by_file.setdefault(PurePosixPath(record.video).name, []).append(record)
    found = by_id.get(task)
    if found is None and len(by_file.get(source, ())) == 1:
        found = by_file[source][0]
    found = found or by_id.get(PurePosixPath(name).stem)
    if found is None:
        raise FormatError(f"no record for task {task!r} of video {source!r}; name the task after the video_id")
    return found


def _read(root: Element, record: Record) -> Record:
    _check_meta(root, record)
    groups: dict[str, _Group] = {}
    for number, track in enumerate(root.iter("track")):
        words = _words(track)
        name = words.get("anomaly", "").strip() or f"track {number}"
        kind = AnomalyType.parse(track.get("label", ""))
        group = groups.setdefault(name, _Group(kind, words))
        if group.type is not kind:
            raise FormatError(
                f"anomaly {name} has tracks of {group.type.value!r} and {kind.value!r}; give it one label"
            )
        group.tracks.append(expand(_keyframes(track, record), record.truth.num_frames))
    anomalies = tuple(group.anomaly(name) for name, group in groups.items())
    return replace(record, truth=replace(record.truth, anomalies=anomalies))


def _check_meta(root: Element, record: Record) -> None:
    for tag, value in (("width", record.truth.width), ("height", record.truth.height)):
        stated = root.findtext(f".//original_size/{tag}")
        if stated and int(stated) != value:
            raise FormatError(f"the task's video has {tag} {stated}, the record {value}; they are not the same video")
    step = root.findtext(".//frame_filter", "") or ""
    if re.sub(r"\s|step=1$", "", step):
        raise FormatError(f"the task shows only some frames ({step!r}); make it without a frame step")


@dataclass
class _Group:
    """The tracks of one anomaly, and the words of the first of them."""

    type: AnomalyType
    words: Mapping[str, str]
    tracks: list[Track] = field(default_factory=list)

    def anomaly(self, name: str) -> Anomaly:
        frames = self._window(name)
        boxless = self.words.get("no_box", "").lower() == "true"
        # A track nobody ended runs to the end of the video; its window says where it ends.
        kept = [
            {n: b for n, b in t.boxes.items() if t.open_from is None or n < t.open_from or n <= frames.end}
            for t in self.tracks
        ]
        return Anomaly(
            type=self.type,
            frames=frames,
            boxes={} if boxless else from_tracks(kept),
            objects=_objects(self.words.get("objects", "")),
            reason=self.words.get("reason", ""),
            region=self.words.get("region", ""),
            salient=SALIENCY.get(self.words.get("salient", "")),
        )

    def _window(self, name: str) -> FrameRange:
        text = self.words.get("window", "").strip()
        if text:
            found = re.fullmatch(r"(\d{1,9})\s*[-–]\s*(\d{1,9})", text)
            if not found:
                raise FormatError(f"anomaly {name}: window {text!r} must read like 3-17, both frames included")
            return FrameRange(int(found[1]), int(found[2]))
        frames = [n for track in self.tracks for n in track.boxes]
        if not frames:
            raise FormatError(f"anomaly {name} is never visible and states no window")
        return FrameRange(min(frames), max(frames))


def _words(track: Element) -> dict[str, str]:
    """The attributes of a track: at the track itself, or at its boxes, where the first that says something counts."""
    words: dict[str, str] = {}
    for attribute in track.iter("attribute"):
        name, value = attribute.get("name", ""), attribute.text or ""
        if value and not words.get(name):
            words[name] = value
    return words


def _keyframes(track: Element, record: Record) -> list[Keyframe]:
    found = []
    for box in track.iter("box"):
        if float(box.get("rotation", "0")):
            raise FormatError(f"frame {box.get('frame')}: a box turned by {box.get('rotation')} degrees; turn it back")
        missing = [key for key in ("frame", "xtl", "ytl", "xbr", "ybr") if key not in box.attrib]
        if missing:
            raise FormatError(f"a box has no {missing[0]}")
        sizes = (record.truth.width, record.truth.height) * 2
        pixels = [float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
        if not all(math.isfinite(v) for v in pixels):
            raise FormatError(f"frame {box.get('frame')}: box {pixels} is not finite")
        x0, y0, x1, y1 = (v * BOX_SCALE / size for v, size in zip(pixels, sizes, strict=True))
        visible = box.get("outside", "0") != "1"
        found.append(Keyframe(int(box.attrib["frame"]), (x0, y0, x1, y1), visible=visible))
    return found


def _objects(text: str) -> tuple[str, ...]:
    if text.startswith("["):
        try:
            items = json.loads(text)
        except ValueError:
            items = None
        if isinstance(items, list):
            return tuple(str(item) for item in items)
    return tuple(part.strip() for part in text.split(";") if part.strip())
