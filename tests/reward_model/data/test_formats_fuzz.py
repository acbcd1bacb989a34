"""Exports with anything at any place: each gives a record or says why not, and never an exception."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.cvat import from_cvat, to_cvat
from reward_model.data.formats.grouped import from_grouped, to_grouped
from reward_model.data.formats.label_studio import from_label_studio, to_label_studio
from reward_model.data.records import Record
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation

MELTS = Anomaly(AnomalyType.OBJECT, FrameRange(3, 9), {n: (Box(9 * n, 100, 400, 300),) for n in range(3, 10)}, ("cup",))
GONE = Anomaly(AnomalyType.MOTION, FrameRange(5, 7), {4: (Box(1, 2, 3, 4),)}, reason="vanishes")
RECORD = Record("a.mp4", VideoAnnotation("a", 20, 8.0, 64, 48, "a cup", (MELTS, GONE)))
BARE = Record("a.mp4", VideoAnnotation("a", 20, 8.0, 64, 48))

TEXTS = (
    "",
    "x",
    "-1",
    "1e9",
    "nan",
    "1e400",
    "0",
    "999999999",
    "1.5",
    "\u0663",
    "20-10",
    "5-",
    "[",
    "step=0",
    "step=7",
)
TAGS = ("box", "polygon", "track", "meta", "task", "job", "mask", "points", "image", "attribute", "project", "size")
VALUES = (None, "x", 3, -1, [], {}, [3], math.nan, math.inf, 10**400, True, 1e308, "21", {"a": 1}, [[]], 0, 2.5)
ROUNDS = [pytest.param(30, id="few"), pytest.param(3000, id="many", marks=pytest.mark.slow)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def spoilt(value: Any, rng: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(value)))
        inner = value
        for step in way:
            inner = inner[step]
        inner[last] = copy.deepcopy(rng.choice(VALUES))
    return value


def spoil(root: ElementTree.Element, rng: random.Random) -> None:
    element = rng.choice(list(root.iter()))
    act = rng.randrange(5)
    if act == 0 and element.attrib:
        element.set(rng.choice(list(element.attrib)), rng.choice(TEXTS))
    elif act == 1 and element.attrib:
        element.attrib.pop(rng.choice(list(element.attrib)))
    elif act == 2:
        element.text = rng.choice(TEXTS)
    elif act == 3:
        element.tag = rng.choice(TAGS)
    elif len(element):
        element.remove(rng.choice(list(element)))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_cvat(rounds):
    rng, text = random.Random(0), to_cvat(RECORD).encode()
    for _ in range(rounds):
        root = ElementTree.fromstring(text)
        for _ in range(rng.randint(1, 4)):
            spoil(root, rng)
        found = from_cvat({"x.xml": ElementTree.tostring(root), "y.xml": b""}, [BARE])
        assert any(p.line == 2 for p in found.errors) and all("\n" not in p.message for p in found.problems)
        assert found.records or any(p.line == 1 for p in found.errors)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_label_studio(rounds):
    rng, (task,) = random.Random(0), json.loads(json.dumps(to_label_studio([RECORD], as_annotations=True)))
    for _ in range(rounds):
        found = from_label_studio([spoilt(task, rng), task], base=[BARE])
        assert found.records[-1].truth.anomalies == RECORD.truth.anomalies
        assert len(found.records) == 2 or found.errors


@pytest.mark.parametrize("rounds", ROUNDS)
def test_grouped(rounds):
    rng, data = random.Random(0), json.loads(json.dumps(to_grouped(RECORD, sample_fps=4)))
    for _ in range(rounds):
        try:
            assert isinstance(from_grouped(spoilt(data, rng)), Record)
        except FormatError as error:
            assert len(str(error)) < 500
