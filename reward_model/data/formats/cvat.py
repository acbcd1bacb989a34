"""CVAT: records to "CVAT for video 1.1" XML, one file per video; :mod:`cvat_read` makes records of it again.

Each box track of an anomaly is a ``track`` whose label is the anomaly's type. CVAT has no segments, so the window and
the words stand in attributes: ``anomaly`` (tracks with one number are one anomaly), ``window`` (``3-17``), ``reason``,
``region``, ``objects``, ``salient``, and ``no_box`` for an anomaly whose region nobody has drawn yet. CVAT counts
frames from 0, places boxes in pixels, and says ``outside`` on the first frame that no longer shows the box.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from reward_model.data.formats.cvat_read import SALIENCY, from_cvat
from reward_model.data.formats.safe_xml import xml_text
from reward_model.data.formats.tracks import Keyframe, keyframes, to_tracks
from reward_model.data.records import Record, is_generated
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box

__all__ = ["from_cvat", "labels_config", "to_cvat"]

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
            origin = "auto" if is_generated(record) else "manual"
            element = SubElement(root, "track", id=str(number), label=anomaly.type.value, source=origin)
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
