"""Signs: a board with a three-letter word, drawn from a 5x7 font by exact area sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model.world.canvas import Canvas, Layer
from reward_model.world.kinds import Fault
from reward_model.world.palette import WORDS

_FONT = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "G": "01111 10000 10000 10011 10001 10001 01111",
    "I": "11111 00100 00100 00100 00100 00100 11111",
    "J": "00111 00010 00010 00010 00010 10010 01100",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "N": "10001 11001 10101 10101 10101 10011 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
}
#: Letters of a word and the gaps between them, in font pixels.
_ROWS, _COLUMNS = 7, 3 * 5 + 2


@dataclass(frozen=True)
class Sign:
    """A board around ``path`` (T, 2), ``width`` wide, that shows ``texts[which[t]]`` in frame t.

    ``turn`` (T,) is the cosine of its turn about the upright axis: at 0 it is seen edge-on, below from behind. Through
    a board of an ``opacity`` below 1 one sees what is behind it.
    """

    name: str
    color: np.ndarray
    ink: np.ndarray
    width: float
    path: np.ndarray
    texts: np.ndarray
    which: np.ndarray
    turn: np.ndarray | None = None
    opacity: float = 1.0

    @property
    def height(self) -> float:
        return self.width * (_ROWS + 3) / (_COLUMNS + 3)

    def layers(self, canvas: Canvas) -> list[Layer]:
        x, y = self._at(canvas)
        board = np.maximum(np.abs(x) - self.width / 2, np.abs(y) - self.height / 2)
        cover = canvas.ink(board) if self.opacity == 1 else np.float32(self.opacity) * canvas.ink(board)
        return [*canvas.contoured(board, cover, self.color), Layer(self._text(canvas, self.texts), self.ink)]

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        """The word's rectangle, whatever it reads."""
        x, y = self._at(canvas)
        pixel = self.width / (_COLUMNS + 3)
        return [canvas.fill(np.maximum(np.abs(x) - _COLUMNS / 2 * pixel, np.abs(y) - _ROWS / 2 * pixel))]

    def _at(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates on the board, which a turn widens."""
        x, y = canvas.at(self.path)
        return (x, y) if self.turn is None else (x / self.turn[canvas.index].astype(np.float32)[:, None, None], y)

    def _text(self, canvas: Canvas, texts: np.ndarray) -> np.ndarray:
        """Coverage (N, H, W): the part of each pixel's square that letters fill."""
        x, y = self._at(canvas)
        pixel, side = self.width / (_COLUMNS + 3), canvas.pitch
        wide = side if self.turn is None else side / np.abs(self.turn[canvas.index].astype(np.float32))[:, None, None]
        across = _overlap(x[:, 0, :], wide, pixel, _COLUMNS)
        down = _overlap(y[:, :, 0], side, pixel, _ROWS)
        shown = texts[self.which[canvas.index]].astype(np.float32)
        return np.clip(down @ shown @ across.transpose(0, 2, 1), 0, 1)


def _overlap(position: np.ndarray, side: float | np.ndarray, pixel: float, count: int) -> np.ndarray:
    """Share of each picture pixel (centre ``position`` (N, S), width ``side``, one for all or (N, 1, 1)) covered by
    each of ``count`` font pixels of width ``pixel`` around zero: (N, S, count).
    """
    low = (np.arange(count) - count / 2) * pixel
    left, right = position[..., None] - side / 2, position[..., None] + side / 2
    common = np.minimum(right, low + pixel) - np.maximum(left, low)
    return (np.clip(common, 0, None) / side).astype(np.float32)


def spell(word: str) -> np.ndarray:
    """The bitmap (7, 17) of a three-letter word."""
    bitmap = np.zeros((_ROWS, _COLUMNS), bool)
    for k, letter in enumerate(word):
        bitmap[:, 6 * k : 6 * k + 5] = letter_bitmap(letter)
    return bitmap


def letter_bitmap(letter: str) -> np.ndarray:
    """(7, 5)."""
    return np.array([[c == "1" for c in row] for row in _FONT[letter].split()])


def make_sign(
    color_name: str,
    color: np.ndarray,
    ink: np.ndarray,
    width: float,
    path: np.ndarray,
    word: str,
    fault: Fault | None,
) -> Sign:
    """A sign that reads ``word``, and something else while its fault lasts."""
    texts, which = [spell(word)], np.zeros(len(path), int)
    if fault is not None:
        texts.append(_wrong(word, fault))
        which[fault.frames.start : fault.frames.end + 1] = 1
    return Sign(f"{color_name} sign", color, ink, width, path, np.stack(texts), which)


def _wrong(word: str, fault: Fault) -> np.ndarray:
    rng = np.random.default_rng(int(fault.draw * 2**31))
    if fault.kind == "change":
        others = [w for w in WORDS if sum(a != b for a, b in zip(w, word, strict=True)) == 3]
        return spell(others[rng.integers(len(others))])
    bitmap = spell(word)
    for k in range(3):
        cell = slice(6 * k, 6 * k + 5)
        if fault.kind == "mirror":
            bitmap[:, cell] = bitmap[:, cell][:, ::-1]
        else:
            # Strokes of another letter's halves in the wrong places: letter-like, and no letter.
            rows, columns = rng.permutation(_ROWS), rng.permutation(5)
            bitmap[:, cell] = bitmap[:, cell][rows][:, columns]
    return bitmap
