"""Text embeddings on disk, so that the text encoder (11 GB in bf16 for Wan) leaves memory before training.

A file's name is a hash of everything the embedding depends on: encoder weights and dtype, tokenizer, text and length.
A changed encoder therefore misses the cache instead of being served the old one's answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from cac_align.flow_grpo.sampler.policy import Condition, ImageCondition
from cac_align.pipelines import Pipeline
from reward_model.digests import text_digest
from reward_model.engine.checkpoints import fingerprint
from reward_model.engine.guards import safetensors_fault
from reward_model.files import atomic

#: Embeddings kept in memory (4 MB each for Wan in bf16), so that a step reads each file once.
RECENT = 32


def encoder_id(pipe: Pipeline) -> str:
    """16 hex digits that change with the text encoder's class, weights or dtype, and with the tokenizer."""
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
    words = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    parts = [type(encoder).__name__, str(encoder.dtype), fingerprint(encoder), type(tokenizer).__name__, words]
    return text_digest("\x1f".join(parts))[:16]


class TextEmbeddings:
    """Embeddings of prompts, (L, D) each, by their text.

    Args:
        folder: folder of the cache; shared by all processes.
        encoder: the result of :func:`encoder_id`.
        max_length: tokens, ``max_sequence_length`` of the pipeline.

    Example:
        >>> texts = TextEmbeddings("outputs/text", encoder_id(pipe), 512)                         # doctest: +SKIP
        >>> texts.fill(pipe, ["a dog catches a ball", ""])                                        # doctest: +SKIP
        >>> pipe.text_encoder = None                                                              # doctest: +SKIP
        >>> texts.batch(["a dog catches a ball"] * 2).shape                                       # doctest: +SKIP
        torch.Size([2, 512, 4096])
    """

    def __init__(self, folder: str | Path, encoder: str, max_length: int) -> None:
        self.folder, self.encoder, self.max_length = Path(folder), encoder, max_length
        self._recent: dict[str, torch.Tensor] = {}

    def path(self, prompt: str) -> Path:
        """File of the embedding of a text."""
        key = json.dumps([self.encoder, self.max_length, prompt], ensure_ascii=False)
        return self.folder / f"{text_digest(key)[:32]}.safetensors"

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """The texts without a whole file, each once."""
        return [p for p in dict.fromkeys(prompts) if not _whole(self.path(p))]

    @torch.no_grad()
    def fill(self, pipe: Pipeline, prompts: Iterable[str], device: torch.device | str = "cpu") -> int:
        """Encodes the missing texts, one at a time, as the pipeline does. Returns how many there were."""
        from safetensors.torch import save_file

        missing = self.missing(prompts)
        for prompt in missing:
            with atomic(self.path(prompt)) as temporary:
                save_file({"embedding": self.encode(pipe, prompt, device).cpu().contiguous()}, temporary)
        return len(missing)

    def encode(self, pipe: Pipeline, prompt: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """The embedding of a text by the live encoder, (L, D)."""
        found = pipe.encode_prompt(
            prompt=prompt, do_classifier_free_guidance=False, max_sequence_length=self.max_length, device=device
        )
        return found[0][0]

    def __getitem__(self, prompt: str) -> torch.Tensor:
        """(L, D) on the CPU.

        Raises:
            KeyError: if it was never encoded.
        """
        from safetensors.torch import load_file

        if prompt not in self._recent:
            path = self.path(prompt)
            if not path.is_file():
                raise KeyError(f"no embedding of {prompt[:60]!r} in {str(self.folder)!r}; call fill() first")
            if len(self._recent) >= RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[prompt] = load_file(path)["embedding"]
        return self._recent[prompt]

    def batch(self, prompts: Iterable[str], device: torch.device | str = "cpu") -> torch.Tensor:
        """(B, L, D) on a device."""
        texts = list(prompts)
        each = {text: self[text] for text in dict.fromkeys(texts)}
        return torch.stack([each[text] for text in texts]).to(device)

    def condition(
        self,
        prompts: Iterable[str],
        negative_prompt: str | None,
        device: torch.device | str = "cpu",
        image: ImageCondition | None = None,
    ) -> Condition:
        """The condition of videos of these prompts; ``negative_prompt`` None: no guidance."""
        texts = list(prompts)
        negative = None if negative_prompt is None else self.batch([negative_prompt] * len(texts), device)
        return Condition(self.batch(texts, device), negative, None if image is None else image.to(device))


def unload_text_encoder(pipe: Pipeline) -> None:
    """Takes the encoder out of the pipeline, which then needs embeddings."""
    pipe.text_encoder = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _whole(path: Path) -> bool:
    return path.is_file() and safetensors_fault(path) is None
