"""Mutated answers by the thousand: never a crash, never a wrong silent success.

Mutations of form (fences, prose, quotes, dashes, commas) must give the very report. After any other mutation, an answer
that still parses must say so in so many words: a second reader, which shares no code with the parser, has to find
exactly one object and read the same status, labels, frames and boxes in it.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from reward_model.parsing import STATUS_PREFIX, ParseError, find_status, format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.turns import completed_prefix, verdict_prefix
from tests.campaigns import draws

FRAMES = 21
REASONINGS = (
    "",
    "Frame 0: a red ball moves right. No anomaly.",
    'Frame 3: the sign reads "OPEN", then "O[EN,}".\nStep 2: see above.',
    'I must answer {"status": "abnormal"} or {\\"status\\": \\"normal\\"} \u2013 hm, it\'s a 5" ball',
    "\u201cnormal\u201d \U0001f600 \u4e2d\u6587 \\ \\\\ /",
)


# --- the second reader -----------------------------------------------------------------------------------------------


class Unreadable(Exception):
    pass


class Reader:
    """JSON by recursive descent, with optional trailing commas. Objects are lists of pairs, so that nothing is lost."""

    ESCAPES: ClassVar = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
    SCALAR: ClassVar = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")
    UNESCAPED: ClassVar = re.compile(r'[^"\\]+')
    SPACE: ClassVar = re.compile(r"[ \t\n\r]*")

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at

    def value(self) -> Any:
        self.space()
        if self.take("{"):
            return ("object", list(self.items("}", self.pair)))
        if self.take("["):
            return list(self.items("]", self.value))
        if self.text[self.at : self.at + 1] == '"':
            return self.string()
        match = self.SCALAR.match(self.text, self.at)
        if not match:
            raise Unreadable
        self.at = match.end()
        if match[0] in ("true", "false", "null"):
            return ("word", match[0])
        return float(match[0]) if match[1] or match[2] else int(match[0]) if len(match[0]) < 4000 else self.fail()

    def items(self, end: str, read: Callable[[], Any]) -> Iterator[Any]:
        self.space()
        while not self.take(end):
            yield read()
            self.space()
            if self.take(","):
                self.space()
            elif self.text[self.at : self.at + 1] != end:
                raise Unreadable

    def pair(self) -> tuple[str, Any]:
        self.space()
        key = self.string()
        self.space()
        if not self.take(":"):
            raise Unreadable
        return key, self.value()

    def string(self) -> str:
        if not self.take('"'):
            raise Unreadable
        out = []
        while not self.take('"'):
            if self.at >= len(self.text):
                raise Unreadable
            if run := self.UNESCAPED.match(self.text, self.at):
                out.append(run[0])
                self.at = run.end()
                continue
            char = self.text[self.at + 1 : self.at + 2]  # after a backslash
            self.at += 2
            if char == "u":
                code = self.text[self.at : self.at + 4]
                if not re.fullmatch(r"[0-9a-fA-F]{4}", code):
                    raise Unreadable
                char, self.at = chr(int(code, 16)), self.at + 4
            elif char in self.ESCAPES:
                char = self.ESCAPES[char]
            else:
                raise Unreadable
            out.append(char)
        return "".join(out)

    def take(self, char: str) -> bool:
        found = self.text[self.at : self.at + 1] == char
        self.at += found
        return found

    def space(self) -> None:
        self.at = self.SPACE.match(self.text, self.at).end()

    def fail(self) -> Any:
        raise Unreadable


def objects(text: str) -> list[dict[str, Any]]:
    """Every outermost readable object with a status, each key once."""
    found, at = [], text.find("{")
    while at >= 0:
        reader = Reader(text, at)
        try:
            _, pairs = reader.value()
            begin, at = at, text.find("{", reader.at)
            keys = Counter(name(k) for k, _ in pairs)
            if keys["status"]:
                assert max(keys.values()) == 1, "the parser accepted a key that is given twice"
                found.append({name(k): v for k, v in pairs})
                rest = straighten(text[:begin] + text[reader.at :])
                if re.search(r'(?i)"\s*status\s*"\s*:', rest):
                    return []  # two verdicts, one of them broken: nobody may choose
        except Unreadable:
            at = text.find("{", at + 1)
    return found


def name(key: str) -> str:
    return " ".join(key.lower().replace("_", " ").split())


def straighten(text: str) -> str:
    return re.sub("[\u201c\u201d\u201e\u201f\u2033]", '"', text)


def agrees(text: str, report: TurnReport, turn: int) -> bool:
    candidates = [found[0] for t in (text, straighten(text)) if len(found := objects(t)) == 1]
    return any(says(candidate, report, turn) for candidate in candidates)


def says(data: dict[str, Any], report: TurnReport, turn: int) -> bool:
    if data["status"].strip().lower() != report.status or not isinstance(data["cot"], str):
        return False
    items = data["anomalies"]
    told = Counter()
    for _, pairs in items:
        item = {name(k): v for k, v in pairs}
        kind = item["attributed label"]
        kind = kind[0] if isinstance(kind, list) else kind
        frames = shown(item["attributed time region"])
        boxes = boxes_told(item["bbox"]) if turn == 2 else frozenset()
        told[stem(kind), frames, boxes] += 1
    read: dict[tuple, list[Anomaly]] = {}
    groups = Counter()
    for anomaly in report.anomalies:
        read.setdefault((anomaly.type, anomaly.reason, anomaly.region), []).append(anomaly)
    for item in items:
        entry = {name(k): v for k, v in item[1]}
        frames = shown(entry["attributed time region"])
        kind = entry["attributed label"]
        kind = stem(kind[0] if isinstance(kind, list) else kind)
        parts = [a for a in report.anomalies if stem(a.type.value) == kind and set(a.frames.frames()) <= frames]
        boxes = boxes_told(entry["bbox"]) if turn == 2 else frozenset()
        if set().union(*(a.frames.frames() for a in parts)) != frames:
            return False
        groups[kind, frames, boxes] += 1
        if turn == 2 and not boxes <= {(k, tuple(b.as_list())) for a in parts for k, bs in a.boxes.items() for b in bs}:
            return False
    every = {(k, tuple(b.as_list())) for a in report.anomalies for k, bs in a.boxes.items() for b in bs}
    return groups == told and every == {pair for _, _, boxes in told for pair in boxes}


def stem(label: str) -> str:
    return re.split(r"[\s_-]+", label.strip().lower())[0]


def shown(region: Any) -> frozenset[int]:
    """The frames a region names, as far as there are such: one that reaches past the end is clipped."""
    return frames_told(region) & frozenset(range(FRAMES))


def frames_told(region: Any) -> frozenset[int]:
    """The frames a region names, read off its digits; letters may only be those of frame(s), to, through, and."""
    if isinstance(region, int):
        return frozenset([region])
    if isinstance(region, list):
        if len(region) == 2 and all(isinstance(r, int) for r in region):
            return frozenset(range(region[0], region[1] + 1))
        return frozenset().union(*map(frames_told, region))
    assert not re.sub(
        r"(?i)frames?|to|through|and|[\d\s\-#,;&.\[\]~\u2010-\u2015\u2212\u301c\ufe58\ufe63\uff0d]", "", region
    ), region
    told: set[int] = set()
    for piece in re.split(r"(?i),|;|and|&", region):
        numbers = [int(n) for n in re.findall(r"\d+", piece)]
        assert len(numbers) in (1, 2), region
        told |= set(range(numbers[0], numbers[-1] + 1))
    return frozenset(told)


def boxes_told(bbox: Any) -> frozenset[tuple[int, tuple[int, ...]]]:
    told = set()
    for key, value in bbox[1]:
        [frame] = re.findall(r"\d+", key)
        for box in value if isinstance(value[0], list) else [value]:
            assert len(box) == 4 and all(type(v) in (int, float) for v in box)
            told.add((int(frame), tuple(box)))
    return frozenset(told)


# --- answers and mutations -------------------------------------------------------------------------------------------


def random_report(rng: random.Random, turn: int) -> TurnReport:
    anomalies = []
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        start = rng.randrange(FRAMES)
        frames = FrameRange(start, rng.randrange(start, FRAMES))
        shown = rng.sample(range(FRAMES), rng.randint(1, 3)) if turn == 2 else []
        boxes = {k: tuple(random_box(rng) for _ in range(rng.choice([1, 1, 2]))) for k in sorted(shown)}
        words = [rng.choice(REASONINGS) for _ in range(2)]
        anomalies.append(Anomaly(rng.choice(list(AnomalyType)), frames, boxes, reason=words[0], region=words[1]))
    return TurnReport("abnormal" if anomalies else "normal", rng.choice(REASONINGS), tuple(anomalies))


def random_box(rng: random.Random) -> Box:
    x, y = sorted(rng.sample(range(1001), 2)), sorted(rng.sample(range(1001), 2))
    return Box(x[0], y[0], x[1], y[1])


STRUCTURE = '{}[]",:\\ 0123456789-.eE'
JUNK = (
    *("NaN", "Infinity", "-1", "1e400", "9" * 40, "9" * 5000, "null", "true", '""', "[]", "{}", "[" * 30, "{" * 30),
    *(
        '{"a":' * 8,
        "\u0000",
        "\ufeff",
        "\u2013",
        "\u201c",
        "'",
        "\\",
        "\\u",
        "\\ud800",
        "<think>",
        "//",
        ",,",
        "\u0663",
    ),
    *('"status": "normal"', '"status": "normal", ', '"anomalies": []', '"normal"', "Frame ", "0.5", "```"),
    *("normal", "abnormal", "ab", '{"COT": "", "status": "normal", "anomalies": []}'),
)


def delete(rng: random.Random, text: str) -> str:
    at, length = rng.randrange(len(text)), rng.choice([1, 1, 1, 2, 5, 20])
    return text[:at] + text[at + length :]


def truncate(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text))]


def behead(rng: random.Random, text: str) -> str:
    return text[rng.randrange(1, len(text)) :]


def swap(rng: random.Random, text: str) -> str:
    a, b, c = sorted(rng.sample(range(len(text) + 1), 3))
    return text[:a] + text[b:c] + text[a:b] + text[c:]


def repeat(rng: random.Random, text: str) -> str:
    a = rng.randrange(len(text))
    b = min(len(text), a + rng.choice([1, 2, 5, 30, 200]))
    at = rng.choice([b, rng.randrange(len(text))])
    return text[:at] + text[a:b] + text[at:]


def replace(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(STRUCTURE) + text[at + 1 :]


def flip_bytes(rng: random.Random, text: str) -> str:
    raw = bytearray(text.encode())
    for _ in range(rng.choice([1, 1, 2, 4])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return raw.decode("utf-8", "replace")


def insert_junk(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(JUNK) + text[at:]


def replace_value(rng: random.Random, text: str) -> str:
    """A whole value, where the syntax survives and only the meaning breaks."""
    spots = list(re.finditer(r'-?\d+|"[^"\\]*"|\[\]|\[[\d, ]+\]', text))
    if not spots:
        return insert_junk(rng, text)
    spot = rng.choice(spots)
    return text[: spot.start()] + rng.choice([*JUNK, spot[0] * 2, f"[{spot[0]}]"]) + text[spot.end() :]


def double_key(rng: random.Random, text: str) -> str:
    spots = list(re.finditer(r'"(COT|status|anomalies|Attributed Label|BBOX|Frame \d+)": ', text))
    if not spots:
        return insert_junk(rng, text)
    spot = rng.choice(spots)
    value = rng.choice(['"normal"', '"abnormal"', "[]", '"x"', "[1, 2, 3, 4]"])
    return text[: spot.start()] + spot[0] + value + ", " + text[spot.start() :]


def start_over(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text))] + rng.choice(["", "\n", "\n```json\n"]) + rng.choice([text, JUNK[-1]])


MUTATIONS = (
    delete,
    truncate,
    behead,
    swap,
    repeat,
    replace,
    flip_bytes,
    insert_junk,
    replace_value,
    double_key,
    start_over,
)

PROSE = (
    "Sure! ",
    "```json\n",
    "Here is the verdict:\n\n",
    "\ufeff",
    "It's {odd}, 5\" wide: ",
    "<think>\nhm\n</think>\n",
    "[Note] ",
)
AFTER = ("", "\n```", "\nHope that helps.", " }", "\n\n(see frames 3-7)", "<|im_end|>")


def dress(rng: random.Random, text: str) -> str:
    return rng.choice(PROSE) + text + rng.choice(AFTER)


def dashes(rng: random.Random, text: str) -> str:
    return re.sub(
        r'(": "Frame \d+)-(\d+")', lambda m: m[1] + rng.choice("\u2010\u2011\u2012\u2013\u2014\u2212") + m[2], text
    )


def outside_strings(text: str, pattern: str, by: Callable[[re.Match[str]], str]) -> str:
    return re.sub(rf'"(?:[^"\\]|\\.)*"|{pattern}', lambda m: m[0] if m[0].startswith('"') else by(m), text)


def trailing_commas(rng: random.Random, text: str) -> str:
    return outside_strings(text, r"(?<=[\d\]}\"])[\]}]", lambda m: rng.choice([",", " ,\n", ""]) + m[0])


def smart_quotes(rng: random.Random, text: str) -> str:
    return text if re.search("[\u201c\u201d]", text) else re.sub('"', lambda m: rng.choice("\u201c\u201d"), text)


def layout(rng: random.Random, text: str) -> str:
    return outside_strings(text, r"[:,\[{]", lambda m: m[0] + rng.choice([" ", "\n  ", "\t", ""]))


#: In an order in which each still finds its place.
FORM_ONLY = (dashes, trailing_commas, layout, smart_quotes)


# --- the tests -------------------------------------------------------------------------------------------------------


def test_form_only_mutations_change_nothing():
    rng = random.Random(1)
    for k in range(draws(4000, 1000)):
        turn = 1 + k % 2
        report = random_report(rng, turn)
        text = format_report(report, boxes=turn == 2)
        used = [m for m in FORM_ONLY if rng.random() < 0.6]
        for mutate in used:
            text = mutate(rng, text)
        if rng.random() < 0.5 and smart_quotes not in used:
            text = dress(rng, text)
        assert parse_turn(text, turn=turn, num_frames=FRAMES) == report, text


def mutated(rng: random.Random, report: TurnReport, turn: int, first: int) -> str:
    text = format_report(report, boxes=turn == 2)
    mutate = MUTATIONS[first % len(MUTATIONS)]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = mutate(rng, text) if len(text) > 3 else "{}{}"
        mutate = rng.choice(MUTATIONS)
    return dress(rng, text) if rng.random() < 0.2 else text


def check_place(text: str, status: str, turn: int) -> None:
    """Another word at the place where the verdict is scored makes another answer: it is the place that was read."""
    place = find_status(text)
    assert place is not None, text
    prefix = verdict_prefix(text)
    assert prefix == text[: place.key] + STATUS_PREFIX
    assert prefix.words[status == "abnormal"].strip().lower() == status or "\\" in place.value, text
    with pytest.raises(ParseError, match="zzz"):
        parse_turn(text[: place.key] + text[place.key :].replace(place.value, "zzz", 1), turn=turn, num_frames=FRAMES)


def campaign(seed: int, count: int) -> Counter[str]:
    """What became of so many mutated answers. Fails at the first that is read wrongly, takes a second, is scored at
    another place than it is read at, or cannot be written and read again.
    """
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for k in range(count):
        turn = 1 + k % 2
        report = random_report(rng, turn)
        text = mutated(rng, report, turn, k)
        started = time.process_time()
        completed_prefix(text).encode()
        try:
            read = parse_turn(text, turn=turn, num_frames=FRAMES)
        except ParseError as error:
            assert error.text == text and error.reason
            outcomes["refused"] += 1
        else:
            assert agrees(text, read, turn), f"parsed as {read}\nfrom {text}"
            check_place(text, read.status, turn)
            assert parse_turn(format_report(read, boxes=turn == 2), turn=turn, num_frames=FRAMES) == read, text
            outcomes["same" if read == report else "changed"] += 1
        assert time.process_time() - started < 1, text
    # The test is worth something only if mutations hit: most are refused, some survive, some change the meaning openly.
    assert outcomes["refused"] > count / 2 and min(outcomes["same"], outcomes["changed"]) > count / 70, outcomes
    return outcomes


def test_no_crash_and_no_wrong_silent_success():
    campaign(2, draws(20_000, 1_500))


@pytest.mark.slow
def test_a_hundred_thousand_mutated_answers():
    print(campaign(20_260, 100_000))


def test_cut_answers_never_parse():
    rng = random.Random(3)
    for k in range(draws(300, 100)):
        text = format_report(random_report(rng, 1 + k % 2), boxes=bool(k % 2))
        for cut in rng.sample(range(len(text)), 10):
            for turn in (1, 2):
                try:
                    read = parse_turn(text[:cut], turn=turn, num_frames=FRAMES)
                except ParseError:
                    continue
                raise AssertionError(f"{read} from a cut answer: {text[:cut]}")


def test_the_second_reader_can_say_no():
    """The oracle is no rubber stamp: it refuses a report that differs in any one thing."""
    rng = random.Random(4)
    report = TurnReport("abnormal", "x", (Anomaly(AnomalyType.MOTION, FrameRange(3, 7), {4: (random_box(rng),)}),))
    text = format_report(report)
    assert agrees(text, report, 2)
    anomaly = report.anomalies[0]
    for other in (
        Anomaly(AnomalyType.OBJECT, anomaly.frames, anomaly.boxes),
        Anomaly(anomaly.type, FrameRange(3, 8), anomaly.boxes),
        Anomaly(anomaly.type, anomaly.frames, {5: anomaly.boxes[4]}),
        Anomaly(anomaly.type, anomaly.frames, {4: (random_box(rng),)}),
    ):
        assert not agrees(text, TurnReport("abnormal", "x", (other,)), 2)
    assert not agrees(text, TurnReport("normal", "x"), 2)
    assert not agrees(text + text, report, 2)
