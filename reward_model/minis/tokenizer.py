"""The mini judge's tokenizer: byte-level complete, with every piece of the answer template and every number one token.

Like Qwen's it keeps ``normal`` one token and ``abnormal`` two (``ab`` + ``normal``), which is why verdicts must be
scored as whole words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reward_model.schema import BOX_SCALE, AnomalyType
from reward_model.world.kinds import REASONS
from reward_model.world.narration import NO_ANOMALY, NORMAL_STATE, STATES
from reward_model.world.palette import COLORS, SHAPES
from reward_model.world.video import SIZE

FRAME_SIZE = SIZE
#: What a reason can be about.
NAMES = (*SHAPES, "person", "sign")
MAX_FRAMES = 41
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def coordinate_values() -> list[int]:
    """Every integer a box on the grid of :data:`FRAME_SIZE` pixels can have: low corners are rounded down, high
    corners up.
    """
    step = BOX_SCALE / FRAME_SIZE
    return sorted(
        {math.floor(k * step) for k in range(FRAME_SIZE)} | {math.ceil(k * step) for k in range(1, FRAME_SIZE + 1)}
    )


def template_pieces() -> list[str]:
    """The pieces of prompts and answers that are single tokens, besides numbers and the verdict words."""
    label = '", "Attributed Label": "'
    reason = '", "Reason for Anomaly": "the '
    pieces = [
        '{"COT": "',
        '", "status": "',
        '", "anomalies": []}',
        '", "anomalies": [{"Attributed Time Region": "Frame ',
    ]
    pieces += [f"{label}{kind.value}{reason}" for kind in AnomalyType]
    pieces += [f" {words}" for words in REASONS.values()]
    pieces += ['", "Problem Region": "the ', '", "BBOX": {', '"}]}', "]}}]}", "]]}}]}", "}}]}"]
    pieces += [f" {color}" for color in COLORS] + [f"{color}" for color in COLORS] + [f" {name}" for name in NAMES]
    pieces += [f" {words}." for words in REASONS.values()] + [" The ", "The "]
    pieces += ['"}, {"Attributed Time Region": "Frame ', *NAMES, " light", "light"]
    pieces += [f" {state}" for state in (NORMAL_STATE, *STATES.values())] + [f" {NO_ANOMALY}", NO_ANOMALY]
    pieces += ["user\n", "assistant\n", "\nScan.", "\nZoom.", "], ["]
    return pieces


def number_pieces() -> dict[str, tuple[str, float]]:
    """Tokens that carry a number, with the family they belong to and the number: frame marks, frame ranges and box
    corners.
    """
    pieces: dict[str, tuple[str, float]] = {}
    for k in range(MAX_FRAMES):
        for text in (f"Frame {k}:", f" Frame {k}:"):
            pieces[text] = ("mark", k)
        pieces[f"{k}"] = ("start", k)
        pieces[f"-{k}"] = ("end", k)
        for family in (
            '"Frame {}": [',
            '"Frame {}": [[',
            '], "Frame {}": [',
            '], "Frame {}": [[',
            ']], "Frame {}": [',
            ']], "Frame {}": [[',
        ):
            pieces[family.format(k)] = (family, k)
    for value in coordinate_values():
        pieces[f"{value}, "] = ("corner", value)
        pieces.setdefault(f"{value}", ("last corner", value))
    return pieces


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer: any text encodes, template pieces and numbers are one token each."""
    pieces = [*template_pieces(), *number_pieces(), "normal", "ab"]
    numbers = [p for p in number_pieces() if not p.isdigit() and not re.fullmatch(r"-\d+", p)]
    words = sorted({*template_pieces(), *numbers}, key=lambda p: (-len(p), p))
    # A whole number is one piece or none: "1000" is never cut into "100" and "0". The last alternatives keep the
    # verdict trap.
    pattern = "|".join([*map(escape, words), r"-?(?<!\d)\d+(?!\d)", r"ab(?=normal\b)", "normal"])
    return piece_tokenizer(pieces, pattern)


def piece_tokenizer(pieces: Iterable[str], pattern: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which ``pieces`` are one token each and any other text encodes byte by byte.

    Args:
        pieces: in the order of their numbers, after the 256 bytes.
        pattern: regular expression (Oniguruma) of what is kept in one piece.
    """
    to_bytes = _byte_alphabet()
    vocabulary = {symbol: index for index, symbol in enumerate(to_bytes.values())}
    for piece in pieces:
        vocabulary.setdefault("".join(to_bytes[b] for b in piece.encode()), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level vocabularies."""
    symbols = pre_tokenizers.ByteLevel.alphabet()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    for shift, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + shift)
    if set(table.values()) != set(symbols):
        raise RuntimeError("the byte alphabet of the tokenizers library has changed")
    return dict(sorted(table.items()))


def escape(text: str) -> str:
    """A literal for the tokenizer's regular expressions (Oniguruma)."""
    return re.sub(r"([\\.\[\]{}()*+?|^$\-])", r"\\\1", text)
