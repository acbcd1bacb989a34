"""A stand-in for a pretrained language model: the mini first learns to follow a video, frame by frame.

The full-size recipe starts from a model that can read; the mini starts from noise, and what it sees in a frame has to
come together at the frame's mark before any sentence can look it up. A throw-away head on every mark names what this
frame shows and what has changed since the one before: an answer for each frame at once, where a written answer tells
the model of an event in one word of sixty. This is not part of the paper's recipe.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from datasets import Dataset as Rows
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from reward_model.training.gradients import average_gradients
from reward_model.training.mini_batch import MiniCollator, use_equal_images
from reward_model.training.mini_data import draw_rows, make_example
from reward_model.training.muon import MuonAdamW, divide_parameters
from reward_model.training.sft import Example
from reward_model.world.kinds import KINDS
from reward_model.world.narration import read_states

log = logging.getLogger(__name__)

#: What a mark is asked for: nothing, or a kind.
NAMES = ("", *KINDS)
#: Kinds that are an event: they show where they begin and end.
_EVENTS = ("vanish", "appear", "teleport", "change")
#: Videos of a step, in turns.
_TURNS = ("splice", "splice", "splice", "scan")
#: Learning rates: weight matrices (Muon), the rest (AdamW), and the warmed-up tower relative to both.
MATRIX_RATE, RATE, TOWER_RATE = 0.01, 2e-3, 0.1


def mark_labels(answer: str) -> list[int]:
    """What each mark has to name, as indices of :data:`NAMES`, from the perfect answer to a scan.

    Of an event, the frame it begins at and the first after it (where things jump back); of a thing that hangs in the
    air, the frames at which it has not moved; of all other kinds, every frame that shows it.
    """
    kinds = read_states(answer)
    before = ["", *kinds]
    labels = []
    for now, last in zip(kinds, before, strict=False):
        if now in _EVENTS or last in _EVENTS:
            labels.append(now or last if now != last else "")
        else:
            labels.append("" if now == "float" and last != "float" else now)
    return [NAMES.index(kind) for kind in labels]


def warm_up_reading(
    model: Any, collator: MiniCollator, *, steps: int, batch: int = 16, seed: int = 0, num_workers: int = 0
) -> float:
    """Trains the whole model in place; returns the share of anomalous marks that are named right at the end.

    Where ``torch.distributed`` is set up, every process draws videos of its own and gradients are averaged.

    Args:
        model: the mini judge, its vision tower warmed up.
        collator: lays out prompts as the model takes them.
        steps: optimiser steps of ``batch`` videos on each process; rates rise for 3 % of them and fall over the last
            60 %.
        seed: of the videos and the heads.
        num_workers: processes that draw videos ahead (0: this one); the result does not depend on it.
    """
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    torch.manual_seed(seed)
    # From where frames have been compared, and never on the last layer where there is a choice: it has to write.
    layers = range(2, max(3, model.config.text_config.num_hidden_layers))
    heads = nn.ModuleList(nn.Linear(model.config.text_config.hidden_size, len(NAMES)) for _ in layers)
    named = [*model.named_parameters(), *((f"heads.{name}", p) for name, p in heads.named_parameters())]
    optimizer = MuonAdamW(_groups(named))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.03 * steps), max(0.02, (1 - step / steps) / 0.6))
    )
    drawn = DataLoader(MarkedPrompts(collator, steps, batch, seed, rank), batch_size=None, num_workers=num_workers)
    right = 0.0
    model.train()
    with use_equal_images(model):
        for step, (inputs, marks, labels) in enumerate(drawn):
            states = model.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            guesses = [head(states[k][marks]) for head, k in zip(heads, layers, strict=True)]
            loss = torch.stack([cross_entropy(guess, labels) for guess in guesses]).mean()
            optimizer.zero_grad()
            loss.backward()
            average_gradients([p for _, p in named])
            nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimizer.step()
            schedule.step()
            wrong = labels > 0
            share = (guesses[-1].argmax(-1) == labels)[wrong].float().mean().item() if wrong.any() else right
            right += 0.05 * (share - right)
            if rank == 0 and (step % 25 == 0 or step == steps - 1):
                log.info("reading warm-up step %d/%d: loss %.3f, named right %.3f", step, steps, loss.item(), right)
    model.eval()
    return right


def _groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    tables = ("embed_tokens", "lm_head", "pos_embed", "heads.")
    tower = [(name, p) for name, p in named if ".visual." in name]
    rest = [(name, p) for name, p in named if ".visual." not in name]
    return [
        *divide_parameters(rest, lr=MATRIX_RATE, adam_lr=RATE, adam_names=tables),
        *divide_parameters(tower, lr=MATRIX_RATE * TOWER_RATE, adam_lr=RATE * TOWER_RATE, adam_names=tables),
    ]


class MarkedPrompts(Dataset):
    """Batch ``k`` of process ``rank``: inputs without answers, where the marks are, and what they have to name."""

    def __init__(self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int) -> None:
        self.collator, self.steps, self.batch, self.seed, self.rank = collator, steps, batch, seed, rank
        tokenizer = collator.processor.tokenizer
        self.marks = torch.tensor([i for text, i in tokenizer.get_vocab().items() if _is_mark(tokenizer, i)])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        seed = int(torch.tensor([self.seed, step, self.rank]).dot(torch.tensor([1_000_003, 17, 7])))
        rows = [{**row, "cot": True} for row in _rows(self.batch, seed)]
        examples = [make_example(row) for row in rows]
        labels = torch.tensor([label for e in examples for label in mark_labels(e.answer)])
        collate = MiniCollator(self.collator.processor, lambda example: example)  # type: ignore[arg-type,return-value]
        inputs = collate([Example(e.conversation, "") for e in examples])  # type: ignore[misc]
        del inputs["labels"]
        marks = torch.isin(inputs["input_ids"], self.marks)
        if int(marks.sum()) != len(labels):
            raise RuntimeError(f"{int(marks.sum())} marks for {len(labels)} frames")
        return inputs, marks, labels


def _rows(batch: int, seed: int) -> Rows:
    return draw_rows([_TURNS[k % len(_TURNS)] for k in range(batch)], seed=seed)


def _is_mark(tokenizer: Any, token: int) -> bool:
    """Whether a token is ``Frame <number>:``."""
    text = tokenizer.decode([token]).strip()
    return text.startswith("Frame ") and text.endswith(":") and text[6:-1].isdigit()
