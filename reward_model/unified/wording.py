"""Whose sentences a UnifiedReward checkpoint is asked in: ours, or those it was tuned on, from a file of yours.

The public scripts are not part of this package. :data:`PUBLIC_WORDINGS` says where each text stands and how to know it:
copy the text that the script sends into a file, leave ``{prompt}`` where it puts the prompt, and a row made with that
file says ``"wording_origin": "public"``.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

from reward_model.digests import text_digest
from reward_model.unified.pairs import PAIR_PROTOCOLS, PairProtocol
from reward_model.unified.protocols import PROTOCOLS, Protocol

AnyProtocol = TypeVar("AnyProtocol", Protocol, PairProtocol)
REPOSITORY = "https://github.com/CodeGoat24/UnifiedReward"
LICENCE = "MIT"


class PublicWording(NamedTuple):
    """Place of a protocol's text in :data:`REPOSITORY`, and the SHA-256 (hex) of its words, in UTF-8 with a single
    space between them and ``{caption}`` for the prompt.
    """

    path: str
    commit: str
    digest: str


PUBLIC_WORDINGS = {
    "aps": PublicWording(
        "inference_qwen/UnifiedReward-2.0-inference/point_score_APS_video_generation.py",
        "4fb75bb68e80afef9376ad2ac524953ee898ce2f",
        "092ca477d466f868450573ede04a9b7343d5942b0d0b8d879f679f909f6e16a6",
    ),
    "video5": PublicWording(
        "inference_llava/video_generation/point_score_video_generation.py",
        "ed52f98c680bfeca1e23e26aa61715de03412f2b",
        "040f41347b723d57c2fe49023478a56a840f9b7603bec7135d7576a2e050116a",
    ),
    "pair": PublicWording(
        "inference_llava/video_generation/pair_rank_video_generation.py",
        "ed52f98c680bfeca1e23e26aa61715de03412f2b",
        "bbaef8d7caa9b3dfd58577640103d8443c3e53a95d2e46d5762fb056e487d416",
    ),
    "pair_score": PublicWording(
        "inference_qwen/UnifiedReward-2.0-inference/pair_score_video_generation.py",
        "5941d9bec06bd71cca5bc45bd5007ddba6937dcb",
        "02cda57564e7b635d28a0380d47373d48baa43095b3f49e99c179f92a39186ac",
    ),
    "think_pair": PublicWording(
        "UnifiedReward-Think/inference_qwen/UnifiedReward-Think-qwen3vl-inference/qwen3vl_infer_cot_video_generation.py",
        "dae5c7227e54279e7a40b00367635f35c03c8a15",
        "ff4ffcaf1118c18f4a6cddd9e86cbb4bd2d0442f95656263f23741b55be0eab3",
    ),
    "flex_pair": PublicWording(
        "UnifiedReward-Flex/flex_pair_rank_video_generation.py",
        "d9b748d79abce031421559bc6bfe9c1f9765a755",
        "ac97c9e40ac87cdb3e1cba8b9f707b8dc8e9ab558e72f510024cbc456e9265e8",
    ),
}


def with_wording(protocol: AnyProtocol, file: str | PathLike[str]) -> AnyProtocol:
    """The protocol with the question of a text file (UTF-8): its frames, axes and reader stay.

    Raises:
        ValueError: if the file cannot be read, or does not say exactly once, by ``{prompt}`` or ``{caption}``, where
            the prompt stands.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the wording {str(file)!r} cannot be read: {error}") from error
    text = text.replace("{prompt}", "{caption}")
    if text.count("{caption}") != 1:
        raise ValueError(
            f"the wording {str(file)!r} names the place of the prompt {text.count('{caption}')} times; write "
            "{prompt} there, once"
        )
    return replace(protocol, question=text)


def wording_origin(protocol: Protocol | PairProtocol) -> str:
    """``"own"``: this package's sentences; ``"public"``: the script's; ``"file"``: others."""
    known: Protocol | PairProtocol | None = PROTOCOLS.get(protocol.name) or PAIR_PROTOCOLS.get(protocol.name)
    if known is not None and protocol.question == known.question:
        return "own"
    public = PUBLIC_WORDINGS.get(protocol.name)
    return "public" if public is not None and words_digest(protocol.question) == public.digest else "file"


def words_digest(question: str) -> str:
    """SHA-256 (hex) of the words of a question, whatever the space between them."""
    return text_digest(" ".join(question.split()))
