"""Needs of a run, looked up without loading anything: pipeline, judges, and how they are read."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.judging.reward_specs import SHORT, RewardSpec, build_reward, read_specs
from cac_align.flow_grpo.learner.quantised import PACKAGES
from cac_align.flow_grpo.sampler.clips import clips_digest, find_clips
from cac_align.rewards.calibration import Calibration, CalibrationError, difference
from reward_model.backends.source import located, shipped_folder
from reward_model.config import load_judge_config
from reward_model.digests import json_digest, model_fingerprint
from reward_model.extras import PIP
from reward_model.folders import file_digest
from reward_model.setting_keys import bare_address, without_keys

if TYPE_CHECKING:
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.training_settings import TrainingSettings
    from cac_align.rewards.composite import CompositeReward

log = logging.getLogger(__name__)

#: A file that every pipeline has.
PIPELINE_FILE = "model_index.json"

#: Settings that make other videos: a calibration fits a training that has the same.
DECISIVE = (
    "revision",
    "height",
    "width",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "negative_prompt",
    "flow_shift",
)
#: Which build makes a folder of ``assets``.
_BUILDS = {"wan-mini": "generator", "cac-mini": "judge", "unified-mini": "unified"}
_MINIS = {SHORT["cac"]: "cac-mini", SHORT["unified"]: "unified-mini"}
#: Folders that projects keep checkpoints in; a name that begins so is not a name of the hub.
_FOLDERS = ("outputs", "assets", "runs", "checkpoints", "models", "data")


@dataclass(frozen=True)
class Need:
    """One thing a run needs: ``state`` is ``found``, ``missing``, or ``fetched`` (from the hub, when it starts)."""

    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<7} {self.text}"


def model_of(spec: RewardSpec) -> str | None:
    """The checkpoint a reward asks: as its options say, else the embedded mini of its kind; None for a function."""
    model = spec.options.get("model")
    if model is not None:
        return str(model)
    mini = _MINIS.get(spec.target)
    if mini is None:
        return None
    folder = shipped_folder(mini)
    return str(folder) if folder else f"assets/{mini}"


def contents_of(config: FlowGRPOConfig) -> dict[str, str]:
    """Digests of what settings name by a path, by the setting: equal digests mean the same, wherever the files lie."""
    contents = {"rewards": json_digest([_content_of(spec) for spec in read_specs(config.rewards)])}
    contents |= base_contents(config)
    if config.prompts is not None and (file := Path(located(config.prompts))).is_file():
        contents["prompts"] = file_digest(file)
    if config.calibration is not None and (file := Path(located(config.calibration))).is_file():
        contents["calibration"] = file_digest(file)
    if config.data_regulariser is not None and Path(located(config.data_regulariser)).exists():
        contents["data_regulariser"] = clips_digest(find_clips(config.data_regulariser))
    return contents


def base_contents(config: TrainingSettings) -> dict[str, str]:
    """:func:`contents_of`, of the settings that all trainings share."""
    contents = {}
    if (folder := Path(located(config.model))).is_dir():
        contents["model"] = model_fingerprint(folder)
    for name, source in config.frozen_adapters.items():
        if found := frozen_file(source):
            contents[name] = file_digest(found)
    return contents


def anchor_identity(contents: Mapping[str, str]) -> dict[str, str]:
    """Of a training's contents, the digests of what it holds on to, which may not change under the same name."""
    held = ("frozen_adapter", "frozen_adapter_2", "data_regulariser", "pairs")
    return {f"{name}_digest": contents[name] for name in held if name in contents}


def frozen_file(source: str) -> Path | None:
    """The file of a frozen adapter; None if it is not there."""
    from cac_align.flow_grpo.learner.lora_files import find_lora

    try:
        return find_lora(located(source))
    except ValueError:
        return None


def bank_of(config: FlowGRPOConfig) -> dict[str, Any]:
    """Entries of a bank that a training's settings must share, JSON-safe; the model counts by its content."""
    folder = Path(located(config.model))
    model = f"folder {model_fingerprint(folder)[:16]}" if folder.is_dir() else config.model
    found = {"model": model, **{name: getattr(config, name) for name in DECISIVE}}
    for name, source in config.frozen_adapters.items():
        file = frozen_file(source)
        found[name] = [file and file_digest(file)[:16], config.frozen_adapter_weight]
    return found


def check_calibration(config: FlowGRPOConfig, command: str | None = None) -> Calibration | None:
    """The calibration that the settings name, seen to be one of this model, these sizes and these rewards; None if they
    name none. Nothing is loaded.

    Args:
        config: settings of a training.
        command: command line that makes the calibration, for the message; None: in general words.

    Raises:
        CalibrationError: if it is missing or another one; the message has the command.
    """
    if config.calibration is None:
        return None
    make = command or f"cac-align calibrate --config SETTINGS.yaml --output {shlex.quote(config.calibration)}"
    try:
        found = Calibration.load(located(config.calibration))
        wanted = bank_of(config)
        if changed := difference({name: found.bank.get(name) for name in wanted}, wanted):
            raise CalibrationError(f"its bank is that of another generator: {changed}")
        build_reward(config.rewards, calibration=found)
    except CalibrationError as error:
        raise CalibrationError(
            f"calibration={config.calibration!r}: {error}; make it for these settings: {make}"
        ) from error
    return found


def own_reward(config: FlowGRPOConfig) -> CompositeReward:
    """The reward of the settings, on its fixed scale where they name one.

    Raises:
        ValueError: as :func:`~cac_align.flow_grpo.judging.reward_specs.build_reward` and :func:`check_calibration`.
    """
    calibration = check_calibration(config)
    return build_reward(config.rewards, on_failure=config.reward_on_failure, calibration=calibration)


def _content_of(spec: RewardSpec) -> list[Any]:
    options, model = without_keys(spec.options, keep_names=False), model_of(spec)
    if model is not None and Path(located(model)).is_dir():
        options = {**options, "model": model_fingerprint(located(model))}
    if (file := weights_of_reward(spec)) is not None and file.is_file():
        options = {**options, "weights": file_digest(file)}
    return [spec.target, spec.name, spec.weight, options]


def weights_of_reward(spec: RewardSpec) -> Path | None:
    """The file of weights that the options of a motion reward name; None of other rewards."""
    weights = spec.options.get("weights") if spec.target == SHORT["motion"] else None
    return None if weights is None else Path(located(str(weights)))


def check_model(model: str, what: str) -> None:
    """Raises ValueError where ``model`` is a path and nothing lies there; the message has the command that makes it."""
    path = Path(located(model))
    if path.exists() or not is_path(model):
        return  # there, or a name of the hub
    build = _BUILDS.get(path.name)
    remedy = (
        f"build it: python recipes/build_minis.py --only {build} --output {path.parent}" if build else "fix the path"
    )
    raise ValueError(f"{what}: there is no folder {model!r}; {remedy}")


def check_needs(config: FlowGRPOConfig, *, pipeline: bool = True, rewards: bool = True) -> None:
    """Raises ValueError where the pipeline or a judge of a run is missing, before anything is loaded.

    Args:
        config: settings of the run.
        pipeline, rewards: whether those of the settings are used.
    """
    if not rewards and config.calibration is not None:
        raise ValueError(
            f"calibration={config.calibration!r} is that of the settings' rewards; give your own reward one of its own "
            "(CompositeReward(calibration=...)), and set the setting to null"
        )
    specs = read_specs(config.rewards) if rewards else []
    needs = [*reward_needs(specs), *anchor_needs(config)]
    if pipeline:
        needs.insert(0, model_need("model", config.model, PIPELINE_FILE, config.revision))
    refuse_missing(needs)
    for note in readout_notes(specs):
        log.warning(note)


def refuse_missing(needs: Sequence[Need]) -> None:
    """Raises ValueError where one of some needs is missing."""
    missing = [need.text for need in needs if need.state == "missing"]
    if missing:
        raise ValueError(
            f"{'; '.join(missing)}. Fix the settings, or make what is missing: python recipes/build_minis.py for the "
            "minis, the three stages for a judge, or download it where the network is"
        )


def needs_text(config: FlowGRPOConfig, command: str | None = None) -> str:
    """Needs of a run, a line each, for ``--dry-run``; the last line says what to do where something is missing.

    Args:
        config: settings of the run.
        command: see :func:`check_calibration`.
    """
    specs = read_specs(config.rewards)
    needs = [model_need("model", config.model, PIPELINE_FILE, config.revision), *reward_needs(specs)]
    needs += [*anchor_needs(config), *calibration_need(config, command)]
    lines = [f"  {need}" for need in needs] + [f"  warning {note}" for note in readout_notes(specs)]
    missing = sum(need.state == "missing" for need in needs)
    if missing:
        lines.append(f"  {missing} missing: the run would stop here; make it, or fix the setting")
    return "\n".join(["Needs", *lines])


def is_path(model: str) -> bool:
    """True if a model's name is that of a folder: names of the hub are ``owner/name``."""
    first = model.partition("/")[0]
    return model.count("/") != 1 or first.startswith((".", "~")) or first in ("", *_FOLDERS) or Path(first).is_dir()


def model_need(what: str, model: str, file: str, revision: str | None = None) -> Need:
    """Looks for a model.

    Args:
        what: it is for, as the text names it.
        model: folder or name of the hub.
        file: that every such model has, looked up in the hub's cache.
        revision: revision on the hub.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    path = Path(located(model))
    if path.is_dir():
        return Need("found", f"{what}: {path}")
    if is_path(model):
        return Need("missing", f"{what}: {model} (no such folder)")
    if isinstance(try_to_load_from_cache(model, file, revision=revision), str):
        return Need("found", f"{what}: {model} (in the hub's cache)")
    if HF_HUB_OFFLINE:
        return Need("missing", f"{what}: {model} (not in the hub's cache, and HF_HUB_OFFLINE=1 forbids fetching it)")
    return Need("fetched", f"{what}: {model} (not in the hub's cache: fetched from the hub at the start)")


def reward_needs(specs: Sequence[RewardSpec]) -> list[Need]:
    """The checkpoints of the rewards; a server is named and not asked."""
    needs = []
    for spec in specs:
        model, backend = model_of(spec), spec.options.get("backend", "local")
        if (file := weights_of_reward(spec)) is not None:
            needs.append(Need("found" if file.is_file() else "missing", f"reward {spec.name}: weights {file}"))
        elif model is None:
            needs.append(Need("found", f"reward {spec.name}: {spec.target}"))
        elif backend == "local":
            needs.append(model_need(f"reward {spec.name}", model, "config.json", spec.options.get("revision")))
        else:
            where = bare_address(str(spec.options.get("base_url") or "its recording"))
            needs.append(Need("found", f"reward {spec.name}: {model} by {backend} at {where} (not asked)"))
    return needs


def anchor_needs(config: FlowGRPOConfig) -> list[Need]:
    """:func:`base_needs`, and the videos of the data term. Only looked for, not read."""
    needs = base_needs(config)
    if (source := config.data_regulariser) is not None:
        there = Path(located(source)).exists()
        text = f"videos of the data term: {source}"
        needs.append(Need("found", text) if there else Need("missing", f"{text} (no such folder or .jsonl file)"))
    return needs


def base_needs(config: TrainingSettings) -> list[Need]:
    """The package that stores the base, and the frozen adapters below the trained ones. Only looked for, not read."""
    needs = []
    if (precision := config.base_precision) is not None:
        package, extra = PACKAGES[precision], PIP[PACKAGES[precision]]
        there = importlib.util.find_spec(package) is not None
        text = f"package of base_precision {precision}: {package}"
        needs.append(Need("found", text) if there else Need("missing", f"{text} (pip install {extra!r})"))
    for source in config.frozen_adapters.values():
        file = frozen_file(source)
        needs.append(
            Need("found", f"frozen adapter: {file}") if file else Need("missing", f"frozen adapter: {source} (no LoRA)")
        )
    return needs


def calibration_need(config: FlowGRPOConfig, command: str | None = None) -> list[Need]:
    """The calibration of a run that names one; one of other settings is as good as missing."""
    try:
        found = check_calibration(config, command)
    except CalibrationError as error:
        return [Need("missing", str(error))]
    return [] if found is None else [Need("found", f"calibration: {config.calibration} ({found.digest})")]


def readout_notes(specs: Sequence[RewardSpec]) -> list[str]:
    """A line for every CaC judge that is read if it was never trained to give its verdict.

    A checkpoint says in its ``judge.json`` where it was (``readouts``); one that says nothing was trained to give it
    after its reasoning. Of a judge behind a server nothing is known here.
    """
    notes = []
    for spec in specs:
        if spec.target != SHORT["cac"] or spec.options.get("backend", "local") != "local":
            continue
        wanted, model = spec.options.get("readout"), model_of(spec)
        folder = Path(located(model)) if model else None
        if wanted is None or folder is None or not folder.is_dir():
            continue
        try:
            trained = load_judge_config(folder).readouts
        except (OSError, ValueError):
            continue  # said in full by whoever loads it
        if wanted not in trained:
            notes.append(
                f"reward {spec.name} is read by readout {wanted!r}, which {model} was never trained for (it was for "
                f"{', '.join(trained)}): its scores may mean little; set readout: {trained[0]}, or leave it out"
            )
    return notes
