"""From the name of a checkpoint to a model one can ask, or to one line that says what is wrong and what to do.

Whatever is cheap is looked at first: whether the folder or hub entry exists, what kind of model it is, whether its
weight files are whole. Code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.backends.base import CheckpointError
from reward_model.backends.devices import ran_out_of_memory
from reward_model.domain import DOMAIN_FILE

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

logger = logging.getLogger(__name__)

#: Architectures that run in this process; others are asked behind a server.
ARCHITECTURES = ("qwen3_vl", "qwen3_vl_moe")
#: Fewest bytes a stored parameter takes (4 bits, and the scales beside them are more).
_BYTES_PER_PARAMETER = 0.5
_MAX_CONFIG_BYTES = 10_000_000
_TIMEOUT_S = 10.0


def locate(model: str, *, holds: str = "config.json", kind: str = "model", revision: str | None = None) -> bool:
    """True if ``model`` must be read from an earlier download (the hub cannot be reached); False for a folder and for a
    hub id that answers.

    At most one request is made, of ten seconds.

    Args:
        model: a folder or a hub id.
        holds: the file that makes a folder a model: ``config.json``, ``model_index.json``.
        kind: what it is, for messages.
        revision: revision on the hub.

    Raises:
        CheckpointError: if there is no such folder, it holds no model, or the hub has no such model, refuses it, or
            cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / holds).is_file():
            inside = [f.parent.name for f in sorted(folder.glob(f"*/{holds}"))]
            hint = f" (there is one in {', '.join(map(repr, inside[:3]))})" if inside else ""
            if (folder / "adapter_config.json").is_file():
                hint = " (it holds a LoRA adapter: merge it into its base model and save that)"
            raise CheckpointError(f"{model!r} holds no {holds}; point to the folder that holds the {kind} itself{hint}")
        return False
    if folder.exists():
        raise CheckpointError(f"{model!r} is a file; pass the folder that holds the {kind}, or a hub id")
    if _is_path(model):
        near = _neighbours(folder)
        raise CheckpointError(
            f"there is no folder {model!r} (looked in {Path.cwd() if not folder.is_absolute() else folder.parent}"
            f"{near}); pass the folder of a {kind}, or a hub id of the form owner/name"
        )
    return _ask_hub(model, holds, kind, revision)


def _is_path(model: str) -> bool:
    """True if a name that is not a folder cannot be meant as a hub id, which is ``owner/name``."""
    owner, slash, name = model.partition("/")
    if not slash or "/" in name or "\\" in model or not name or model[:1] in (".", "/", "~"):
        return True
    return Path(owner).is_dir()


def _neighbours(folder: Path) -> str:
    try:
        names = sorted(p.name for p in folder.parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return ""
    return f", which has {', '.join(map(repr, names[:5]))}" if names and folder.parent.name else ""


def _ask_hub(model: str, holds: str, kind: str, revision: str | None) -> bool:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        cached = isinstance(try_to_load_from_cache(model, holds, revision=revision), str)
    except HFValidationError as error:
        raise CheckpointError(
            f"there is no folder {model!r}, and it is not a hub id of the form owner/name either ({_line(error)})"
        ) from None
    fetch = f"`hf download {model}{f' --revision {revision}' if revision else ''}`"
    if constants.HF_HUB_OFFLINE:
        if cached:
            return True
        raise CheckpointError(
            f"there is no folder {model!r}, and as a hub id it is not downloaded yet while HF_HUB_OFFLINE=1 forbids "
            f"downloads; unset HF_HUB_OFFLINE, run {fetch} where there is a network, or pass a folder"
        )
    of = f" at revision {revision!r}" if revision else ""
    try:
        get_hf_file_metadata(hf_hub_url(model, holds, revision=revision), timeout=_TIMEOUT_S)
    except GatedRepoError:
        raise CheckpointError(
            f"{model!r} is gated on the hub: accept its terms at https://huggingface.co/{model}, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no folder {model!r}, and the hub has no such {kind} either (or it is private: `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{model!r} has no revision {revision!r} on the hub; see its history there") from None
    except EntryNotFoundError:
        raise CheckpointError(f"{model!r} on the hub holds no {holds}{of}: it is not a {kind}") from None
    except Exception as error:  # of whatever client library the hub's package uses
        if cached:
            return True
        raise CheckpointError(
            f"there is no folder {model!r}, and the hub cannot be reached ({_line(error)}); check the network or "
            f"$HF_ENDPOINT, run {fetch} elsewhere, or pass a folder"
        ) from None
    return False


def check_checkpoint(model: str, revision: str | None = None) -> bool:
    """Whatever can be said of a judge's checkpoint without loading it; returns as :func:`locate`.

    Raises:
        CheckpointError: if it cannot work.
    """
    local_only = locate(model, kind="judge", revision=revision)
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_folder(folder)
    return local_only


def check_folder(folder: Path) -> None:
    """Looks at a judge's folder without loading it: its kind, its size against its weights, whether files are whole.

    Raises:
        CheckpointError: if it cannot work.
    """
    config = _read_config(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{str(folder)!r} is a model of type {kind!r}; a judge in this process needs a Qwen3-VL. Serve other "
            "vision-language models (vLLM) and pass backend='openai', base_url=..."
        )
    lacking = _lacks_processor(folder)
    if lacking:
        raise CheckpointError(
            f"no processor in {str(folder)!r} ({' and '.join(lacking)} missing): a judge needs "
            "preprocessor_config.json, tokenizer.json and a chat template beside the weights. Save them with "
            "processor.save_pretrained(...)"
        )
    parameters, stored = _fewest_parameters(config), _check_weights(folder)
    if parameters > stored / _BYTES_PER_PARAMETER:
        raise CheckpointError(
            f"cannot load the model in {str(folder)!r}: config.json describes at least {parameters:,} parameters, its "
            f"weight files have {stored:,} bytes; they do not belong together. Copy both from the same checkpoint"
        )


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the configuration of a model: {_line(error)}") from error
    return config


def _lacks_processor(folder: Path) -> list[str]:
    names = {f.name for f in folder.iterdir()}
    lacking = []
    if not names & {"preprocessor_config.json", "processor_config.json"}:
        lacking.append("preprocessor_config.json")
    if not names & {"tokenizer.json", "vocab.json", "tokenizer.model"}:
        lacking.append("tokenizer.json")
    return lacking


def _fewest_parameters(config: Mapping[str, Any]) -> int:
    """A lower bound of what the configuration describes, in whole numbers of any size."""

    def numbers(part: object, *names: str) -> list[int]:
        part = part if isinstance(part, Mapping) else {}
        values = []
        for name in names:
            value = part.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CheckpointError(f"config.json: {name}={value!r} must be a whole number of zero or more")
            values.append(value)
        return values

    layers, hidden, wide, words = numbers(
        config.get("text_config"), "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"
    )
    depth, across, broad, places = numbers(
        config.get("vision_config"), "depth", "hidden_size", "intermediate_size", "num_position_embeddings"
    )
    if config.get("model_type") == "qwen3_vl_moe":
        wide = 0  # its layers are made of experts
    language = layers * hidden * (3 * wide + hidden) + words * hidden
    return language + depth * across * (2 * broad + across) + places * across


def _check_weights(folder: Path) -> int:
    """Bytes of all weight files, after the header of each has been read."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _read_config(index).get("weight_map")
        names = set(listed.values()) if isinstance(listed, dict) else set()
        absent = sorted(str(n) for n in names if not (folder / str(n)).is_file())
        if absent or not names:
            raise CheckpointError(
                f"cannot load the model in {str(folder)!r}: {len(absent)} of the {len(names)} weight files that "
                f"{index.name} lists are missing ({', '.join(absent[:3])}); the download is incomplete, repeat it"
            )
    files = sorted(path for path in folder.glob("*.safetensors") if path.name != DOMAIN_FILE)
    for path in files:
        try:
            with safe_open(path, framework="numpy") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"cannot load the model in {str(folder)!r}: {path.name} is damaged or was cut ({_line(error)}); "
                "download or copy it again"
            ) from error
    files = files or sorted(folder.glob("*.bin"))
    if not files:
        raise CheckpointError(
            f"cannot load the model in {str(folder)!r}: it holds no weights (model.safetensors); copy the whole folder"
        )
    return sum(f.stat().st_size for f in files)


def settings_folder(model: str, revision: str | None = None) -> Path:
    """The folder in which the small files of a checkpoint lie that transformers does not know, such as ``judge.json``;
    those of a hub id are fetched."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from transformers.utils.hub import cached_file

    from reward_model.config import JUDGE_FILE, UNIFIED_FILE

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for name in (JUDGE_FILE, UNIFIED_FILE):
        file = cached_file(model, name, revision=revision, **quiet)
        if file is not None:
            cached_file(model, DOMAIN_FILE, revision=revision, **quiet)
            return Path(file).parent
    return folder


def load_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | Mapping[str, object] | None = None,
    attn_implementation: str | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> tuple[Any, Any]:
    """Model and processor of a Qwen3-VL checkpoint, whole: every weight of the model comes from the files.

    Args:
        model: folder or hub id.
        dtype: a torch dtype or ``"auto"``.
        revision, device_map, attn_implementation, quantization_config: as of ``from_pretrained``.

    Raises:
        CheckpointError: if it cannot be found or loaded, or lacks weights or a processor.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local_only = check_checkpoint(model, revision)
    if Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser())
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "local_files_only": local_only}
    try:
        processor = AutoProcessor.from_pretrained(model, **source)
    except Exception as error:
        raise CheckpointError(f"cannot load the processor of {model!r}: {_line(error)}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CheckpointError(
            f"{model!r} has no image processor (got {type(processor).__name__}); a judge needs a vision-language model"
        )
    if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
        raise CheckpointError(
            f"no chat template in {model!r}: a judge needs chat_template.jinja beside the weights; copy it from the "
            "base model"
        )
    more = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
    options = {k: v for k, v in more.items() if v is not None}
    net = load_weights(AutoModelForImageTextToText, model, dtype=dtype, device_map=device_map, **source, **options)
    if net.config.model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{model!r} is a model of type {net.config.model_type!r}; a judge in this process needs a Qwen3-VL. Serve "
            "other vision-language models (vLLM) and pass backend='openai', base_url=..."
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    net.generation_config = _plain_generation(net, tokenizer)
    return net, processor


def _plain_generation(net: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Generation settings with nothing in them but where an answer ends. What a checkpoint ships beyond that (a
    penalty for repetitions, sampling) would change answers that are asked for greedily: boxes and frame numbers are
    repetitions.
    """
    from transformers import GenerationConfig

    saved = net.generation_config
    stops = getattr(saved, "eos_token_id", None) or tokenizer.eos_token_id
    return GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id, do_sample=False)


def load_weights(cls: Any, model: str, *, called: str | None = None, **options: Any) -> Any:
    """``cls.from_pretrained`` for models that must be whole: it fills what a checkpoint lacks with random numbers.

    Args:
        cls: a class of transformers or of diffusers.
        model: folder or hub id.
        called: its name in messages, if another.
        **options: for ``from_pretrained``.

    Raises:
        CheckpointError: if the weights cannot be read, or some of the model's are missing, of another shape, or not
            finite.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.utils import logging as transformers_logging

    called = model if called is None else called
    said = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its table of what is missing becomes one line below
    try:
        net, info = cls.from_pretrained(model, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except Exception as error:
        raise CheckpointError(_loading_fault(error, called)) from error
    finally:
        transformers_logging.set_verbosity(said)
    if is_deepspeed_zero3_enabled():
        return net  # the weights are spread over processes, and the report covers this one's share
    _check_complete(net, info, called)
    _check_finite(net, called)
    return net


def _loading_fault(error: Exception, called: str) -> str:
    if ran_out_of_memory(error):
        return (
            f"out of memory while loading {called!r} ({_line(error)}); use dtype='bfloat16', device_map='auto', "
            "quantization_config=..., or a smaller checkpoint"
        )
    if isinstance(error, ImportError):
        return f"loading {called!r} needs a package that is not installed: {_line(error)}"
    return f"cannot load the model in {called!r}: {_line(error)}"


def _listed(info: Mapping[str, Any], kind: str) -> list[str]:
    """Names of weights in what ``from_pretrained`` reports, sorted; some come with their shapes."""
    return sorted({str(k[0]) if isinstance(k, tuple) else str(k) for k in info.get(kind) or ()})


def _check_complete(net: PreTrainedModel, info: Mapping[str, Any], called: str) -> None:
    """Raises CheckpointError if weights were missing, of another shape or unreadable; warns of those left over."""
    kept = {name for name, _ in net.named_buffers()}  # computed where the model is built, as tables of positions are
    missing = [name for name in _listed(info, "missing_keys") if name not in kept]
    other, unknown = _listed(info, "mismatched_keys"), _listed(info, "unexpected_keys")
    broken = [str(m) for m in info.get("error_msgs") or ()]
    if not (missing or other or broken):
        if unknown:
            logger.warning("%r holds %d weights the model has no place for (%s, ...)", called, len(unknown), unknown[0])
        return
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
        for keys, what in ((missing, "missing"), (other, "of another shape"), (unknown, "unknown"))
        if keys
    ]
    raise CheckpointError(
        f"the weights in {called!r} are not those of the model its config.json describes: "
        f"{'; '.join([*parts, *broken[:1]])}. The file is damaged or belongs to another model: copy or download it "
        "again"
    )


def _check_finite(net: PreTrainedModel, called: str) -> None:
    """Reads every weight once; parts on disk and those of quantised models, which are whole numbers, are left out."""
    bad = [
        name
        for name, weight in net.named_parameters()
        if weight.is_floating_point() and weight.element_size() > 1 and not weight.is_meta and not _finite(weight)
    ]
    if bad:
        raise CheckpointError(
            f"{len(bad)} of the weights in {called!r} hold numbers that are infinite or none (NaN) in {net.dtype} "
            f"({', '.join(bad[:2])}{', ...' if len(bad) > 2 else ''}). The file is damaged or its training diverged: "
            "copy or download it again, or take an earlier checkpoint; in float16, try bfloat16"
        )


def _finite(weight: torch.Tensor) -> bool:
    return not weight.numel() or all(math.isfinite(float(end)) for end in weight.detach().aminmax())  # NaN is kept


def _line(error: BaseException) -> str:
    """Message of an exception on one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]
