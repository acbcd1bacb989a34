"""A referee that remembers: equal questions get one answer, in memory and, if wanted, in a file of lines.

A question is equal to another if video, frame, phrase, correct answer and box are; boxes are first brought to a grid of
one hundredth of the picture, and it is that box that is asked about, so that an answer never depends on who asked
first. A batch is a line, which is there as a whole or not at all: a training that was killed and continues asks the
same batches again, and gets the same numbers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reward_model.digests import json_digest
from reward_model.evidence.referee import Opinion, Question, Referee
from reward_model.journal import append_lines, read_lines, read_object
from reward_model.rewards import Need
from reward_model.schema import BOX_SCALE, Box
from reward_model.strict_json import is_number

log = logging.getLogger(__name__)

#: Units of the 0-1000 grid that boxes are brought to.
STEP = 10


class CachedReferee:
    """Asks ``inner`` what was not asked before.

    Args:
        inner: the referee.
        path: file of lines that keeps the answers between runs, of one process; None: memory alone.
        batch_size: questions that are asked, and kept, at once.
    """

    def __init__(self, inner: Referee, path: str | Path | None = None, *, batch_size: int = 64) -> None:
        self.inner, self.path, self.batch_size = inner, None if path is None else Path(path), batch_size
        self.identity = inner.describe()
        self._known: dict[str, Opinion] = _read(self.path) if self.path is not None else {}
        #: Questions answered from memory, and put to the referee, so far.
        self.num_remembered, self.num_asked = 0, 0

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs

    def describe(self) -> dict[str, Any]:
        return {**self.identity, "box_step": STEP}

    def check(self, questions: Sequence[Question]) -> list[Opinion]:
        asked = [replace(q, claim=replace(q.claim, box=quantised(q.claim.box))) for q in questions]
        keys = [self._key(q) for q in asked]
        new = {key: q for key, q in zip(keys, asked, strict=True) if key not in self._known}
        self.num_asked += len(new)
        self.num_remembered += len(questions) - len(new)
        failed: dict[str, Opinion] = {}
        waiting = list(new)
        for part in (waiting[k : k + self.batch_size] for k in range(0, len(waiting), self.batch_size)):
            opinions = dict(zip(part, self.inner.check([new[key] for key in part]), strict=True))
            failed |= {key: o for key, o in opinions.items() if o.error}
            self._keep({key: o for key, o in opinions.items() if not o.error})
        return [failed[key] if key in failed else self._known[key] for key in keys]

    def _key(self, question: Question) -> str:
        claim = question.claim
        told = [question.video_id, claim.frame, claim.box.as_list(), claim.phrase, question.reference]
        return json_digest([self.identity, *told])

    def _keep(self, opinions: dict[str, Opinion]) -> None:
        self._known |= opinions
        if self.path is not None and opinions:
            batch = {key: [o.relevance, o.localisation, o.garbled] for key, o in opinions.items()}
            append_lines(self.path, [json.dumps(batch)], sync=False)


def quantised(box: Box, step: int = STEP) -> Box:
    """The box with its corners on the nearest lines of a grid, never empty.

    Example:
        >>> quantised(Box(104, 106, 108, 1000)).as_list()
        [100, 110, 110, 1000]
    """
    x0, y0, x1, y1 = (step * round(value / step) for value in box.as_list())
    left, top = min(x0, BOX_SCALE - step), min(y0, BOX_SCALE - step)
    return Box(left, top, max(x1, left + step), max(y1, top + step))


def _read(path: Path) -> dict[str, Opinion]:
    """The answers of a file; a damaged line is left out, and its questions are asked again."""
    known: dict[str, Opinion] = {}
    damaged = 0
    for line in read_lines(path):
        try:
            known |= {key: _opinion(value) for key, value in read_object(line).items()}
        except ValueError:
            damaged += 1
    if damaged:
        log.warning("%s: %d damaged line(s) of the referee's answers are left out, and asked again", path, damaged)
    return known


def _opinion(value: object) -> Opinion:
    """Raises ValueError for anything but two grades and whether they were garbled."""
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], bool):
        raise ValueError(f"{value!r} is not an opinion")
    relevance, localisation, garbled = value
    if not all(is_number(g) and 0 <= g <= 1 for g in (relevance, localisation)):
        raise ValueError(f"{value!r} holds no grades between 0 and 1")
    return Opinion(relevance, localisation, garbled)
