"""Log-probability of a whole word from the short lists of likeliest next tokens that chat servers return.

``abnormal`` is two tokens in Qwen's vocabulary and the second is ``normal``, so a single token must never be read as a
word. Instead the word is walked: every listed token that the rest of the word starts with opens a branch, what the
branch leaves uncovered is asked for again with the covered part added to the prefix, and the branches are summed::

    P(rest) = sum over listed tokens t that begin the rest:  P(t) * P(rest without t | prefix + t)

Branches are followed in order of probability until the others together cannot add 0.1 %; in practice one is. The sum
over tokenisations agrees with teacher forcing of the usual tokens up to the mass of unusual ones (``a`` + ``bnormal``),
which a trained model leaves near zero.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from reward_model.parsing import STATUS_PREFIX
from reward_model.schema import VerdictScore
from reward_model.turns import WORDS, VerdictPrefix, verdict_prefix

#: Text of a token -> its log-probability, for the likeliest next tokens.
NextTokens = Mapping[str, float]

#: Returns the likeliest tokens after prefix + the given part of the word; None when that is not known.
Ask = Callable[[str], NextTokens | None]

_NEGLIGIBLE = math.log(1e-3)
_VALUE_OPENED = re.compile('[^:]*+:\\s*+["\u201c\u201d\u201e\u201f\u2033]')


def next_tokens(entry: Mapping[str, Any]) -> dict[str, float]:
    """One position of a server's ``logprobs.content`` -> :data:`NextTokens`; the drawn token counts as listed.

    Token ids with the same text are added up; byte fragments that are not text and the -9999 that servers write for
    "impossible" are left out.
    """
    listed = {(token_text(item), item.get("logprob")) for item in entry.get("top_logprobs") or ()}
    if token_text(entry) not in {text for text, _ in listed}:
        listed.add((token_text(entry), entry.get("logprob")))
    tokens: dict[str, float] = {}
    for text, value in listed:
        if text and isinstance(value, int | float) and -9999 < value <= 1e-3:
            tokens[text] = _logaddexp(tokens.get(text, -math.inf), min(float(value), 0.0))
    return tokens


def token_text(item: Mapping[str, Any]) -> str:
    """The text of a token, from its bytes where given. Empty for a fragment of a character."""
    raw = item.get("bytes")
    if raw:
        try:
            return bytes(raw).decode()
        except (ValueError, TypeError):
            return ""
    text = item.get("token")
    return text if isinstance(text, str) else ""


def word_log_prob(word: str, ask: Ask) -> tuple[float, bool] | None:
    """Log-probability that the answer goes on with ``word``.

    Returns:
        ``(value, bounded)``, or None when nothing is known of the first token. ``bounded``: the value is an upper
        bound, because a token of the word was outside the list (no more likely than the least likely listed one) or
        could not be asked for.

    Example:
        >>> lists = {"": {"normal": -0.25, "ab": -2.5}, "ab": {"normal": -0.5}}
        >>> word_log_prob("abnormal", lists.get)
        (-3.0, False)
    """
    known: dict[str, tuple[float, bool] | None] = {}

    def rest_after(covered: str) -> tuple[float, bool] | None:
        if covered not in known:
            known[covered] = _sum_branches(word[len(covered) :], covered, ask(covered), rest_after)
        return known[covered]

    return rest_after("")


def _sum_branches(
    rest: str, covered: str, tokens: NextTokens | None, rest_after: Callable[[str], tuple[float, bool] | None]
) -> tuple[float, bool] | None:
    if not tokens:
        return None
    branches = sorted(((v, t) for t, v in tokens.items() if _begins(rest, t)), reverse=True)
    if not branches:
        return min(tokens.values()), True
    total, bounded = -math.inf, False
    for value, token in branches:
        if value < total + _NEGLIGIBLE:
            break
        more, unsure = 0.0, False
        if len(token) < len(rest):
            more, unsure = rest_after(covered + token) or (0.0, True)
        total, bounded = _logaddexp(total, value + more), bounded or unsure
    return total, bounded


def _begins(rest: str, token: str) -> bool:
    """True if the word may continue with this token; a token may also hold the closing quote (``normal"``)."""
    return rest.startswith(token) or token.startswith(rest + '"')


def verdict_score(ask: Ask, words: tuple[str, str] = WORDS) -> VerdictScore | None:
    """Both words after the same prefix, in the spelling of ``words``; None when neither is among the listed tokens, or
    both are only upper bounds, because then nothing is known of their ratio.
    """
    normal, abnormal = (word_log_prob(word, ask) for word in words)
    tokens = ask("")
    if normal is None or abnormal is None or not tokens or (normal[1] and abnormal[1]):
        return None
    if not any(_begins(word, token) for word in words for token in tokens):
        return None
    return VerdictScore(normal[0], abnormal[0], bounded=normal[1] or abnormal[1])


def continues(tokens: NextTokens, words: Sequence[str] = WORDS) -> bool:
    """True if at least half of the probability continues with one of the words: a model that starts over would
    write ``{``.
    """
    inside = [v for t, v in tokens.items() if any(_begins(word, t) for word in words)]
    return sum(math.exp(v) for v in inside) >= 0.5


def generated_verdict(content: Sequence[Mapping[str, Any]], text: str) -> tuple[VerdictPrefix, VerdictScore] | None:
    """Reads the verdict where the model itself wrote it, at the status of its answer.

    Only the path that was drawn is known, so the other word is often an upper bound (``bounded``): after ``normal`` was
    drawn, P(abnormal) is known up to its first token.

    Args:
        content: the tokens of a chat answer with their lists (:attr:`~reward_model.backends.reply.Reply.tokens`).
        text: the answer; a server may list the tokens of a thought before it, and of a mark after it.

    Returns:
        The answer up to the word, and the score; None when there is no such place, or a token straddles it.
    """
    prefix = verdict_prefix(text)
    if prefix is None:
        return None
    pieces = [item.get("bytes") or token_text(item).encode() for item in content]
    whole, answer = b"".join(pieces), text.encode()
    offset = whole.find(answer)
    # The key may be spelled in another way than the prefix has it: the word follows the next quote after its colon.
    opened = _VALUE_OPENED.match(text, len(prefix) - len(STATUS_PREFIX))
    if offset < 0 or opened is None:
        return None
    at = offset + len(text[: opened.end()].encode())
    starts = list(accumulate(map(len, pieces), initial=0))
    position = bisect_left(starts, at)
    if position >= len(pieces) or starts[position] != at:
        return None
    lists: dict[str, NextTokens] = {}
    covered = ""
    for entry in content[position:]:
        lists[covered] = next_tokens(entry)
        covered += token_text(entry)
        if not any(word.startswith(covered) for word in prefix.words):
            break
    score = verdict_score(lists.get, prefix.words)
    return None if score is None else (prefix, score)


def _logaddexp(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
