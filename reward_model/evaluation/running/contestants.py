"""Whom to measure: judges and baselines by a short text, opened only when something is left to judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reward_model.backends.base import Backend
from reward_model.backends.source import announce_demo_scale, open_backend
from reward_model.config import JudgeConfig
from reward_model.digests import json_digest, model_fingerprint
from reward_model.evaluation.benches.bench import CalibrationBench
from reward_model.evaluation.protocols.status import STATUS_PROTOCOLS, StatusJudge
from reward_model.evaluation.protocols.thinker import ThinkerJudge
from reward_model.evaluation.running.baselines import ConstantJudge, RandomJudge, calibrate
from reward_model.evaluation.running.choice import COMMON
from reward_model.evaluation.running.store import bench_fingerprint
from reward_model.judge import Judge, TwoTurnJudge
from reward_model.prompts import WORDINGS, load_prompts
from reward_model.unified.protocols import PROTOCOLS
from reward_model.unified.score import UnifiedJudge
from reward_model.unified.wording import with_wording

#: Simpler forms of a given judge, and the settings that make them.
VARIANTS: dict[str, dict[str, Any]] = {
    "single-turn": {"num_turns": 1},
    "no-reasoning": {"reasoning": False, "all_readouts": False},
}
#: Baselines that need no model.
CONSTANTS: dict[str, Callable[[], Judge]] = {
    "normal": lambda: ConstantJudge("normal"),
    "abnormal": lambda: ConstantJudge("abnormal"),
    "random": RandomJudge,
}
#: Protocols of models by other makers, as far as they are public.
OFFICIAL = ("unified-aps", "unified-video5", *STATUS_PROTOCOLS, ThinkerJudge.name)
#: Baselines with their own model, written ``NAME=MODEL``. ``common`` is the judge's question, asked once.
WITH_MODEL = ("zero-shot", COMMON, *OFFICIAL)
BASELINES = (*VARIANTS, *CONSTANTS, *WITH_MODEL)


@dataclass(frozen=True)
class Contestant:
    """One row of the tables.

    Attributes:
        name: name of the row.
        open: builds the judge; called at most once a run, and not at all where every bench is done.
        fingerprint: changes with the model and its settings.
    """

    name: str
    open: Callable[[], Judge | TwoTurnJudge] = field(repr=False)
    fingerprint: str


@dataclass(frozen=True)
class ModelSource:
    """A model and how it is reached.

    Attributes:
        model: folder or hub id, the name a server serves it under, or a recording.
        backend: ``"local"``, ``"openai"`` or ``"replay"``.
        options: options of the backend, such as ``device`` or ``base_url``.
    """

    model: str
    backend: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Backend:
        """The backend itself.

        Raises:
            ValueError: if there is no such backend.
            BackendError: if it cannot be loaded.
        """
        return open_backend(self.model, self.backend, self.options)

    @property
    def short_name(self) -> str:
        """The last part of the model's path or id."""
        return Path(self.model).name or self.model


def parse_source(
    text: str, backend: str = "local", options: Mapping[str, Any] | None = None
) -> tuple[str, ModelSource]:
    """Name and source of ``[NAME=]MODEL``, where MODEL may be ``openai:SERVED@http://server/v1``.

    Example:
        >>> parse_source("ours=assets/cac-mini")[0]
        'ours'
        >>> parse_source("gpt=openai:gpt-4o@http://judge:8000/v1")[1].options
        {'base_url': 'http://judge:8000/v1'}
    """
    name, separator, model = text.partition("=")
    if not separator:
        name, model = "", text
    if model.startswith("openai:"):
        served, at, url = model.removeprefix("openai:").partition("@")
        source = ModelSource(served, "openai", {"base_url": url} if at else {})
    else:
        source = ModelSource(model, backend, dict(options or {}))
    if not source.model:
        raise ValueError(f"{text!r} names no model; write MODEL, NAME=MODEL or NAME=openai:SERVED@URL")
    return name or source.short_name, source


def judge_contestant(name: str, source: ModelSource, settings: Mapping[str, Any] | None = None) -> Contestant:
    """A two-turn judge on a model; ``settings`` are fields of :class:`~reward_model.config.JudgeConfig`. Where they
    name no readout, the best that the checkpoint was trained for is taken.
    """
    chosen = {"all_readouts": True, "readout": None, **(settings or {})}

    def build() -> TwoTurnJudge:
        backend = source.open()
        config = (getattr(backend, "config", None) or JudgeConfig()).override(**chosen)
        announce_demo_scale(source.model, config.demo_scale)
        return TwoTurnJudge(backend, config, readout=chosen["readout"] or config.best_readout)

    # How many are judged at once decides nothing, unless answers are drawn: then it decides which draw a video gets.
    dropped = () if chosen.get("temperature") else ("batch_size",)
    return Contestant(name, build, _mark(source, {k: v for k, v in chosen.items() if k not in dropped}))


def variant(name: str, of: str, source: ModelSource, settings: Mapping[str, Any] | None = None) -> Contestant:
    """A simpler form (one of :data:`VARIANTS`) of the judge called ``of``. Without reasoning there is no place after it
    to read: such a form is read at the best of the others.
    """
    changed = {**(settings or {}), **VARIANTS[name]}
    if not changed.get("reasoning", True) and changed.get("readout") == "paper":
        changed["readout"] = None
    return judge_contestant(f"{of}, {name}", source, changed)


def unified_contestant(
    name: str,
    source: ModelSource,
    protocol: str,
    calibration: CalibrationBench,
    batch_size: int = 16,
    wording: str | Path | None = None,
) -> Contestant:
    """UnifiedReward by one of its protocols, its threshold set on ``calibration``.

    ``wording``: a file with the question (:func:`~reward_model.unified.wording.with_wording`); None: ours.

    Raises:
        ValueError: if the wording cannot be used.
    """
    chosen = PROTOCOLS[protocol] if wording is None else with_wording(PROTOCOLS[protocol], wording)

    def build() -> Judge:
        return calibrate(UnifiedJudge(source.open(), chosen), calibration, batch_size=batch_size, name=protocol)

    asked = {"protocol": protocol, "question": chosen.question}
    mark = json_digest([_mark(source, asked), bench_fingerprint(calibration)])
    return Contestant(name, build, mark)


def status_contestant(name: str, source: ModelSource, kind: str, batch_size: int = 16) -> Contestant:
    """A model that answers with a word, by one of :data:`STATUS_PROTOCOLS` or as ``"vr-thinker"``."""

    def build() -> Judge:
        if kind == ThinkerJudge.name:
            return ThinkerJudge(source.open(), batch_size=batch_size)
        return StatusJudge(source.open(), kind, batch_size=batch_size)

    return Contestant(name, build, _mark(source, {"protocol": kind}))


def _with_model(
    kind: str,
    source: ModelSource,
    settings: Mapping[str, Any],
    calibration: CalibrationBench | None,
    batch_size: int,
    wordings: Mapping[str, str],
) -> Contestant:
    """The contestant of a baseline that asks a model of its own."""
    name = f"{source.short_name}, {kind}"
    if kind in ("zero-shot", COMMON):
        once = {"num_turns": 1} if kind == COMMON else {}
        return judge_contestant(name, source, {**settings, **once})
    protocol = kind.removeprefix("unified-")
    if protocol in PROTOCOLS:
        bench = calibration or CalibrationBench()
        return unified_contestant(name, source, protocol, bench, batch_size, wordings.get(protocol))
    return status_contestant(name, source, kind, batch_size)


def parse_baseline(
    text: str,
    judges: Mapping[str, ModelSource],
    *,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    calibration: CalibrationBench | None = None,
    batch_size: int = 16,
    wordings: Mapping[str, str] | None = None,
) -> list[Contestant]:
    """The contestants of one baseline.

    Args:
        text: ``single-turn``, ``no-reasoning`` (of every judge given), ``normal``, ``abnormal``, ``random``, or one of
            :data:`WITH_MODEL` as ``NAME=MODEL``.
        judges: the judges given, by name.
        settings: settings of the judges.
        options: options of local backends.
        calibration: where thresholds are set.
        batch_size: batch size of calibration, and of the models that answer with a word.
        wordings: files with the question of a UnifiedReward protocol, by the protocol's name.

    Raises:
        ValueError: if there is no such baseline, its model is missing, or a wording cannot be used.
    """
    kind, _, model = text.partition("=")
    if kind in VARIANTS and not model:
        return [variant(kind, name, source, settings) for name, source in judges.items()]
    if kind in CONSTANTS and not model:
        name = "random" if kind == "random" else f"always {kind}"
        return [Contestant(name, CONSTANTS[kind], json_digest([kind]))]
    if kind in WITH_MODEL and model:
        _, source = parse_source(f"x={model}", options=options)
        return [_with_model(kind, source, settings or {}, calibration, batch_size, wordings or {})]
    raise ValueError(
        f"no baseline {text!r}; there are {', '.join((*VARIANTS, *CONSTANTS))}, "
        f"{', '.join(f'{name}=MODEL' for name in WITH_MODEL)}"
    )


def distinct(contestants: list[Contestant]) -> list[Contestant]:
    """The contestants, repeated names numbered."""
    seen: dict[str, int] = {}
    named = []
    for c in contestants:
        seen[c.name] = seen.get(c.name, 0) + 1
        named.append(c if seen[c.name] == 1 else replace(c, name=f"{c.name} ({seen[c.name]})"))
    return named


def file_name(name: str) -> str:
    """A name as part of a path: other characters than letters, digits, dots and dashes become underscores."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "judge"


def _mark(source: ModelSource, settings: Mapping[str, Any]) -> str:
    where = {"backend": source.backend, "options": dict(source.options)} if source.backend != "local" else {}
    wordings = [load_prompts(name).version for name in WORDINGS]
    return json_digest([model_fingerprint(source.model, settings), where, wordings])
