"""The model card of a trained LoRA: what it is, how it is used, what was measured and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.lora_files import COMFYUI_WEIGHTS, EXPERT_COMFYUI_WEIGHTS, EXPERT_WEIGHTS
from cac_align.flow_grpo.training_settings import TrainingSettings
from reward_model.engine.card import hub_card, plain_table
from reward_model.files import write_text

TAGS = ["diffusers", "lora", "cac-align"]

BODY = """# Flow-GRPO LoRA of {model}

LoRA of rank {rank}, trained by online reinforcement learning (Flow-GRPO, cac-align): {steps} steps of {groups} prompts
x {generations} videos of {frames} frames, {height}x{width}; kernel `{kernel}`, objective `{objective}`, rewards
{rewards}.{base}

```python
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("{model}")
{loading}
```

{comfyui}

{measured}

The rewards are judged by models: a higher reward does not prove better videos. `settings.yaml` beside this file
holds every setting of the run.
"""


#: What is said of an adapter that was trained on top of another one.
FROZEN = """ It was trained on top of the frozen adapter `{source}` at strength {weight:g} and is not meant to be used
without it; the files here hold the trained adapter alone."""
#: The same of two experts.
FROZEN_TWO = """ It was trained on top of the frozen adapters `{source}` (high noise) and `{second}` (low noise) at
strength {weight:g} and is not meant to be used without them; the files here hold the trained adapters alone."""
#: What is said of a base model that was quantised.
STORED = """ In training, the blocks of the base model were stored in {precision}; the evaluations below are of that."""
PLAIN_LOADING = 'pipe.load_lora_weights("{folder}")'
BOTH_LOADING = """pipe.load_lora_weights("{source}", adapter_name="frozen")
pipe.load_lora_weights("{folder}", adapter_name="trained")
pipe.set_adapters(["frozen", "trained"], [{weight:g}, 1.0])"""
EXPERTS_LOADING = f"""{PLAIN_LOADING}
pipe.load_lora_weights("{{folder}}", weight_name="{EXPERT_WEIGHTS["transformer_2"]}", load_into_transformer_2=True)"""
EXPERTS_BOTH_LOADING = f"""pipe.load_lora_weights("{{source}}", adapter_name="frozen")
pipe.load_lora_weights("{{second}}", adapter_name="frozen", load_into_transformer_2=True)
pipe.load_lora_weights("{{folder}}", adapter_name="trained")
pipe.load_lora_weights("{{folder}}", weight_name="{EXPERT_WEIGHTS["transformer_2"]}", adapter_name="trained",
                       load_into_transformer_2=True)
pipe.set_adapters(["frozen", "trained"], [{{weight:g}}, 1.0])"""
ONE_FILE = f"""`{COMFYUI_WEIGHTS}` is the same adapter by the names of the original Wan code: copy it to
`models/loras` of ComfyUI, at strength 1{{below}}."""
TWO_FILES = f"""Each of the two experts has an adapter of its own, and both are needed. By the names of the original Wan
code they are `{EXPERT_COMFYUI_WEIGHTS["transformer"]}` and `{EXPERT_COMFYUI_WEIGHTS["transformer_2"]}`: copy them
to `models/loras` of ComfyUI, and load each behind the model of its noise, at strength 1{{below}}."""


def write_card(
    folder: Path,
    config: FlowGRPOConfig,
    *,
    pipeline: str,
    steps: int,
    history: Sequence[Mapping[str, float]],
    num_prompts: int,
    experts: bool = False,
) -> Path:
    """``README.md`` with the hub's metadata, and ``settings.yaml``.

    Args:
        folder: folder of the LoRA.
        config: settings of the run.
        pipeline: class of the pipeline.
        steps: rounds trained.
        history: evaluations, that of the base model first.
        num_prompts: evaluation prompts.
        experts: whether there are two adapters, one for each expert.
    """
    task = "image-to-video" if "ImageToVideo" in pipeline else "text-to-video"
    body = BODY.format(
        loading=loading_lines(folder, config, experts),
        base=base_words(config),
        model=config.model,
        pipeline=pipeline,
        rank=config.lora_r,
        steps=steps,
        groups=config.groups_per_step,
        generations=config.num_generations,
        frames=config.num_frames,
        height=config.height,
        width=config.width,
        kernel=config.kernel,
        objective=config.objective,
        rewards=", ".join(f"`{r if isinstance(r, str) else r.get('name') or r['reward']}`" for r in config.rewards),
        comfyui=comfyui_words(config, experts),
        measured=_measured(history, num_prompts),
    )
    return write_lora_card(folder, config, body, task=task, tags=["flow-grpo"])


def write_lora_card(folder: Path, config: TrainingSettings, body: str, *, task: str, tags: Sequence[str]) -> Path:
    """``README.md`` with the hub's metadata, and ``settings.yaml``, beside any trained adapter.

    Args:
        folder: folder of the LoRA.
        config: settings of the run.
        body: Markdown of the card.
        task: the hub's name of what the pipeline does.
        tags: of the training, beside those of all.
    """
    import yaml

    card = hub_card(
        body,
        base_model=config.model,
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag=task,
        tags=[task, *TAGS[:2], *tags, *TAGS[2:]],
    )
    write_text(folder / "settings.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
    write_text(folder / "README.md", card)
    return folder / "README.md"


def base_words(config: TrainingSettings) -> str:
    """Sentences of a card on the model under the adapter; empty where nothing is special about it."""
    form = ["", FROZEN, FROZEN_TWO][len(config.frozen_adapters)]
    stored = "" if config.base_precision is None else STORED.format(precision=config.base_precision)
    return form.format(**_frozen(config)) + stored


def comfyui_words(config: TrainingSettings, experts: bool) -> str:
    """Sentences of a card on the files for ComfyUI; ``experts``: there are two adapters, one for each expert."""
    alone = config.frozen_adapter is None
    below = "" if alone else f", beside the frozen one at strength {config.frozen_adapter_weight:g}"
    return (TWO_FILES if experts else ONE_FILE).format(below=below)


def loading_lines(folder: str | Path, config: TrainingSettings, experts: bool) -> str:
    """The lines of Python that load what a run has trained into ``pipe``.

    Args:
        folder: folder of the LoRA.
        config: settings of the run.
        experts: whether there are two adapters, one for each expert.
    """
    alone, both = (EXPERTS_LOADING, EXPERTS_BOTH_LOADING) if experts else (PLAIN_LOADING, BOTH_LOADING)
    return (alone if config.frozen_adapter is None else both).format(folder=folder, **_frozen(config))


def _frozen(config: TrainingSettings) -> dict[str, Any]:
    """Words of the frozen adapters, for a card's forms."""
    sources = {"source": config.frozen_adapter, "second": config.frozen_adapter_2}
    return {**sources, "weight": config.frozen_adapter_weight}


def _measured(history: Sequence[Mapping[str, float]], num_prompts: int) -> str:
    """Evaluations as a table, or the plain statement that there are none."""
    known = [entry for entry in history if "reward" in entry]
    if len(known) < 2:
        return "The run was not evaluated."
    names = ["reward", "motion_energy", "edge_density", "colour_entropy", "first_last_drift", "judge_failure_rate"]
    names += ["saturated"] if any("saturated" in entry for entry in known) else []
    rows = []
    for entry in (known[0], known[-1]):
        cells = [f"{entry[name]:.4f}" if name in entry else "-" for name in names]
        rows.append([f"{entry['step']:.0f}{' (base)' if entry is known[0] else ''}", *cells])
    table = plain_table(("after step", *names), rows)
    return f"Means over {num_prompts} evaluation prompts, one seed each, one run:\n\n{table}"
