"""Model cards: the README.md of what a training wrote, with the hub's metadata, and nothing that was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def hub_card(body: str, *, base_model: str, **metadata: Any) -> str:
    """A card with the hub's metadata.

    Args:
        body: Markdown below the metadata.
        base_model: named in the metadata if it is a name of the hub and not a folder here.
        metadata: further fields of ``huggingface_hub.ModelCardData``.
    """
    from huggingface_hub import ModelCard, ModelCardData

    on_hub = "/" in base_model and not Path(base_model).exists()
    header = ModelCardData(base_model=base_model if on_hub else None, **metadata)
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}", ignore_metadata_errors=False))


def plain_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, cells as they are.

    Example:
        >>> print(plain_table(("metric", "value"), [("loss", 0.5)]))
        | metric | value |
        |---|---|
        | loss | 0.5 |
    """
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


def model_card(
    title: str,
    *,
    base_model: str,
    stage: str,
    data: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    trainable: str,
    demo_scale: bool,
    method: str = "supervised fine-tuning",
    measured: str = "",
    made: str = "A two-turn judge of generated video",
    loaded_by: str = 'CaCReward("<this folder>")',
) -> str:
    """The README.md: what was trained on what, how, and what was measured while it trained (nothing else).

    Args:
        metrics: measured values, such as the held-out loss; empty leaves the section out.
        trainable: lines on what was trained, by parts of the model.
        method: how the stage trains.
        measured: what the metrics are of, where their names do not say it.
        made, loaded_by: the model in a sentence, and how it is loaded.
    """
    parts = [
        f"# {title}",
        f"{made} after {stage} ({method}), started from `{base_model}`.",
        f"Load it with `{loaded_by}`; `judge.json` holds how it has to be asked.",
        f"## Data\n\n{data}.",
        f"## Training\n\n{plain_table(('setting', 'value'), settings.items())}\n\n```\n{trainable}\n```",
    ]
    if metrics:
        table = plain_table(("metric", "value"), ((name, f"{value:.4g}") for name, value in metrics.items()))
        of_what = f"Of {measured}.\n\n" if measured else ""
        parts.append(f"## Measured during training\n\n{of_what}{table}")
    else:
        parts.append("## Measured\n\nNothing was measured on held-out data during this training.")
    if demo_scale:
        parts.append("**Demonstration scale:** a mini model; it judges nothing but what it was trained on.")
    return hub_card(
        "\n\n".join(parts) + "\n",
        base_model=base_model,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["video", "reward-model", "anomaly-detection", stage],
    )
