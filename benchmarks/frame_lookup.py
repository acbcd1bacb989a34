"""How soon does the mini's language model learn to look a frame up, with and without the start it is given?

    python benchmarks/frame_lookup.py --steps 175

Pictures are replaced by random codes, one for each state of a frame, so that seeing is perfect and only finding is
learnt: splices of right and wrong frames, one sentence per frame. Printed: the share of wrong frames that are
named after each 25 steps, on the splices of those steps before they are trained on. Both starts take the same splices.
"""

from __future__ import annotations

import argparse
import os
import types
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from reward_model.data.example import IGNORE
from reward_model.engine.muon import MuonAdamW, divide_parameters
from reward_model.minis.collator import MiniCollator
from reward_model.minis.model import build_judge
from reward_model.minis.rows import draw_rows, make_example
from reward_model.world.narration import STATES, read_states

NAMES = ("", *STATES)
WIDTH = 128


class Codes:
    """In place of the vision tower: each picture's four tokens are the code of its state, plus noise."""

    def __init__(self, model: Any) -> None:
        self.codes = 0.5 * torch.randn(len(NAMES), WIDTH)
        self.states = torch.zeros(0, dtype=torch.long)
        model.model.get_image_features = types.MethodType(lambda *_, **__: self._features(), model.model)

    def _features(self) -> Any:
        count = len(self.states)
        tokens = self.codes[self.states][:, None] + 0.5 * torch.randn(count, 4, WIDTH)
        return types.SimpleNamespace(
            pooler_output=list(tokens), deepstack_features=[list(torch.zeros(count, 4, WIDTH))]
        )


def plain_start(model: Any) -> None:
    """Takes the looking-back heads, the sharpness and the matching heads out again."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            for norm in (attention.q_norm, attention.k_norm):
                norm.weight.fill_(1.0)
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.normal_(0, WIDTH**-0.5, generator=generator)
                projection.bias.zero_()


def states_of(answer: str) -> list[int]:
    """The state each sentence of an answer names."""
    return [NAMES.index(kind) for kind in read_states(answer)]


def run(name: str, steps: int, seed: int) -> None:
    """Trains one start and prints a line for every 25 steps."""
    torch.manual_seed(seed)
    model, processor = build_judge("mini", seed=seed)
    if name == "plain":
        plain_start(model)
    codes = Codes(model)
    named = [(n, p) for n, p in model.named_parameters() if ".visual." not in n]
    optimizer = MuonAdamW(divide_parameters(named, lr=0.01, adam_lr=2e-3, adam_names=("embed_tokens", "lm_head")))
    rates = [group["lr"] for group in optimizer.param_groups]
    wrong = [processor.tokenizer.encode(f" {text}", add_special_tokens=False)[0] for text in STATES.values()]
    collator = MiniCollator(processor, lambda example: example)
    shares: list[float] = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / 15)
        examples = [make_example(row) for row in draw_rows(["splice"] * 16, seed=1000 * seed + 100 + step)]
        codes.states = torch.tensor([state for e in examples for state in states_of(e.answer)])
        batch = collator(examples)  # type: ignore[arg-type]
        labels = batch.pop("labels")[:, 1:]
        hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        kept = labels != IGNORE
        logits = model.get_output_embeddings()(hidden[kept])
        loss = nn.functional.cross_entropy(logits, labels[kept])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        asked = torch.isin(labels[kept], torch.tensor(wrong))
        shares.append((logits.argmax(-1) == labels[kept])[asked].float().mean().item())
        if step % 25 == 24:
            print(f"{name:>8} start, step {step + 1}: {np.mean(shares[-25:]):.2f} of wrong frames named", flush=True)


def main() -> None:
    """Runs both starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=175)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("mini", "plain"):
        run(name, args.steps, args.seed)


if __name__ == "__main__":
    main()
