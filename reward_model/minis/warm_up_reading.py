"""A stand-in for a pretrained language model: the mini first learns to follow a video, frame by frame.

The full-size recipe starts from a model that can read; the mini starts from noise, and what it sees in a frame has to
come together at the frame's mark before any sentence can look it up. Throw-away heads ask for it twice: on every mark
behind its picture, what this frame shows and what has changed since the one before; and on the same marks repeated
after the video in any order, where it has to be found again. That is an answer for each frame at once, where a written
answer tells the model of an event in one word of sixty. This is not part of the paper's recipe.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from reward_model.data.example import IGNORE, Example
from reward_model.engine.checkpoints import fingerprint
from reward_model.engine.muon import MuonAdamW, divide_parameters
from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.gradients import average_gradients, share_of
from reward_model.minis.rows import draw_rows, make_example
from reward_model.minis.warm_up_state import WarmupState
from reward_model.world.kinds import KINDS
from reward_model.world.narration import NORMAL_STATE, read_states
from reward_model.world.scripts import SHIFTED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

#: What a mark is asked for: nothing, or a kind.
NAMES = ("", *KINDS)
#: Kinds that are an event: they show where they begin and end.
_EVENTS = ("vanish", "appear", "teleport", "change")
#: Kinds of video, cycled through within a step.
_TURNS = ("splice", "splice", "splice", "scan")
#: Learning rates: weight matrices (Muon), the rest (AdamW), and the warmed-up tower relative to both.
MATRIX_RATE, RATE, TOWER_RATE = 0.01, 2e-3, 0.1


def mark_labels(answer: str) -> list[int]:
    """Label of each mark, as indices of :data:`NAMES`, from the perfect answer to a scan.

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
    model: PreTrainedModel,
    collator: MiniCollator,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
    shifted: float = 0.0,
    num_workers: int = 0,
    state_file: Path | None = None,
    progress: bool = False,
) -> float:
    """Trains the whole model in place; returns the share of anomalous frames that are found again at the end.

    Where ``torch.distributed`` is set up, processes share the batch, each draws its own, and gradients are averaged.

    Args:
        model: the mini judge, its vision tower warmed up.
        collator: lays out prompts as the model takes them.
        steps: optimiser steps; rates rise for 3 % of them and fall over the last 40 %.
        batch: videos of a step, of all processes together.
        seed: seed of the videos and the heads.
        shifted: share of the videos that are shown under a drawn shift.
        num_workers: processes that draw videos ahead (0: this one); the result does not depend on it.
        state_file: where the state is kept now and then; a stopped warm-up continues from it, bit for bit on a CPU.
        progress: show a bar with the time left.
    """
    rank, batch = share_of(batch)
    run = {"steps": steps, "batch": batch, "seed": seed, "start": fingerprint(model)}
    run |= {"shifted": shifted} if shifted else {}
    torch.manual_seed(seed)
    width, depth = model.config.text_config.hidden_size, model.config.text_config.num_hidden_layers
    # Marks behind pictures from where frames have been compared, marks that are asked for at the end.
    layers = [*range(2, max(3, depth)), depth]
    heads = nn.ModuleList(nn.Linear(width, len(NAMES)) for _ in layers)
    named = [*model.named_parameters(), *((f"heads.{name}", p) for name, p in heads.named_parameters())]
    optimizer = MuonAdamW(_groups(named))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.03 * steps), max(0.02, (1 - step / steps) / 0.4))
    )
    state = WarmupState(state_file, {"model": model, "heads": heads}, [optimizer], [schedule], run)
    first, right = state.load()
    prompts = MarkedPrompts(collator, steps, batch, seed, rank, shifted)
    drawn = DataLoader(prompts, batch_size=None, sampler=range(first, steps), num_workers=num_workers)
    bar = tqdm(drawn, "reading warm-up", total=steps, initial=first, disable=not progress or rank != 0)
    model.train()
    with use_equal_images(model), logging_redirect_tqdm():
        for step, (inputs, shown, asked) in enumerate(bar, first):
            states = model.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            guesses = [head(states[k][shown.places]) for head, k in zip(heads[:-1], layers, strict=False)]
            logits = heads[-1](states[depth][asked.places])
            loss = torch.stack([cross_entropy(guess, shown.labels) for guess in guesses]).mean()
            loss = loss + cross_entropy(logits, asked.labels)
            optimizer.zero_grad()
            loss.backward()
            average_gradients([p for _, p in named])
            nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimizer.step()
            schedule.step()
            wrong = asked.labels > 0
            share = (logits.argmax(-1) == asked.labels)[wrong].float().mean().item() if wrong.any() else right
            right += 0.05 * (share - right)
            if rank == 0 and (step % 25 == 0 or step == steps - 1):
                log.info("reading warm-up step %d/%d: loss %.3f, found right %.3f", step, steps, loss.item(), right)
            state.keep(step + 1, right)
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


class Marks(NamedTuple):
    """Positions of marks, a mask (N, L), and their labels, in that order."""

    places: torch.Tensor
    labels: torch.Tensor


class MarkedPrompts(Dataset):
    """Batch ``k`` of process ``rank``: inputs that end in a list of all marks in any order, each followed by the same
    words; the marks behind pictures, and those of the list.
    """

    def __init__(
        self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int, shifted: float = 0.0
    ) -> None:
        self.stories = {SHIFTED: shifted} if shifted else {}
        self.collator, self.steps, self.batch, self.seed, self.rank = collator, steps, batch, seed, rank
        tokenizer = collator.processor.tokenizer
        self.marks = torch.tensor([i for i in tokenizer.get_vocab().values() if _is_mark(tokenizer, i)])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[dict[str, torch.Tensor], Marks, Marks]:
        rng = np.random.default_rng([self.seed, step, self.rank])
        tasks = [_TURNS[k % len(_TURNS)] for k in range(self.batch)]
        rows = [{**row, "cot": True} for row in draw_rows(tasks, seed=int(rng.integers(2**31)), stories=self.stories)]
        examples = [make_example(row) for row in rows]
        labels = [mark_labels(e.answer) for e in examples]
        orders = [rng.permutation(len(found)) for found in labels]
        lists = ["".join(f" Frame {k}: {NORMAL_STATE}" for k in order) for order in orders]
        collate = MiniCollator(self.collator.processor, lambda example: example)  # type: ignore[arg-type,return-value]
        asked_for = [Example(e.conversation, text) for e, text in zip(examples, lists, strict=True)]
        inputs = collate(asked_for)  # type: ignore[arg-type]
        listed = inputs.pop("labels") != IGNORE
        marks = torch.isin(inputs["input_ids"], self.marks)
        if int(marks.sum()) != 2 * sum(map(len, labels)):
            raise RuntimeError(f"{int(marks.sum())} marks for twice {sum(map(len, labels))} frames")
        shown = Marks(marks & ~listed, torch.tensor([k for found in labels for k in found]))
        again = [found[k] for found, order in zip(labels, orders, strict=True) for k in order]
        return inputs, shown, Marks(marks & listed, torch.tensor(again))


def _is_mark(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """True if a token is ``Frame <number>:``."""
    text = tokenizer.decode([token]).strip()
    return text.startswith("Frame ") and text.endswith(":") and text[6:-1].isdigit()
