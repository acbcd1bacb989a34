"""Label Studio: records to pre-annotated tasks; :mod:`label_studio_read` makes records of them again.

Each anomaly is a segment of a ``TimelineLabels`` track plus one ``VideoRectangle`` region per box track; reason,
region, objects and saliency are per-region texts and choices of the segment; the status is a choice about the whole
video.
Label Studio counts frames from 1, places boxes in percent, and keeps keyframes: ``enabled`` false is the last frame
that shows the box. Its frame numbers follow the ``frameRate`` of the labelling configuration, which therefore reads
the task's own ``$fps``; where a project counts at another rate, the reader converts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import quoteattr

from reward_model.data.formats.label_studio_read import PERCENT, from_label_studio
from reward_model.data.formats.tracks import Keyframe, keyframes, to_tracks
from reward_model.data.records import GENERATED, MAKER_KEY, Record, is_generated
from reward_model.schema import AnomalyType

__all__ = ["from_label_studio", "labeling_config", "to_label_studio"]


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
        data: dict[str, Any] = {"video": video_prefix + record.video, "fps": record.truth.fps, "record": plain}
        if is_generated(record):
            data["origin"] = GENERATED
        if not as_annotations:
            filled["model_version"] = str(record.extra.get(MAKER_KEY) or "cac-align")
        tasks.append(
            {
                "data": data,
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
    return {"frame": key.frame + 1, "enabled": not key.ends, **place, "time": (key.frame + 1) / fps}
