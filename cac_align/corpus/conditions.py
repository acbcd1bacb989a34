"""Conditions on the rows of a table, such as ``score > 0.8 and status == "normal"``: a small part of Python's grammar,
read by its parser and reckoned here, never run.

Names are columns (``column("my column")`` where one is not a name), texts stand in quotes. There are ``and``, ``or``,
``not``, the comparisons, ``in`` and ``not in`` of texts and lists, ``is None``, the four operations and ``len``. A
comparison with nothing is neither true nor false, as in SQL: a row without a score is kept by none of ``score > 0.5``,
``score <= 0.5`` and ``not score > 0.5``; ``score is None`` finds it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

Row = Mapping[str, Any]
_Value = Callable[[Row], Any]

_MOST = 10_000
_COMPARED: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_RECKONED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class ConditionError(ValueError):
    """A condition cannot be understood, or does not fit the values of a row. The message says where and why."""


class RowCondition:
    """A condition on rows.

    Args:
        text: the condition.
        columns: names of the columns there are.

    Raises:
        ConditionError: if it is not a condition, or names a column that is not there.

    Example:
        >>> keeps = RowCondition("score > 0.8 and 'Motion' not in types", ["score", "types"])
        >>> keeps({"score": 0.9, "types": []}), keeps({"score": None, "types": []})
        (True, False)
    """

    def __init__(self, text: str, columns: Collection[str]) -> None:
        self.text, self._columns = text, columns
        if len(text) > _MOST:
            raise ConditionError(f"a condition of {len(text)} characters is too long; at most {_MOST}")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            self._value = self._read(tree.body)
        except SyntaxError as error:
            raise ConditionError(f"{text!r} is not a condition: {error.msg}; write such as {_SUCH_AS}") from None
        except (RecursionError, MemoryError, ValueError) as error:
            if isinstance(error, ConditionError):
                raise
            raise ConditionError(f"{text[:60]!r} is not a condition: {error or 'nested too deeply'}") from None

    def __call__(self, row: Row) -> bool:
        """True if the condition holds for a row.

        Raises:
            ConditionError: if its values are of a kind that cannot be compared so, or it is not a condition.
        """
        try:
            value = self._value(row)
        except TypeError as error:
            raise ConditionError(f"{self.text!r}, video {row.get('video')!r}: {error}") from None
        if value is None or isinstance(value, bool):
            return value is True
        raise ConditionError(f"{self.text!r} gives {value!r}, neither true nor false; compare it, such as {_SUCH_AS}")

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, node: ast.expr) -> _Value:
        readers: dict[type, Callable[[Any], _Value]] = {
            ast.BoolOp: self._joined,
            ast.UnaryOp: self._unary,
            ast.Compare: self._compared,
            ast.BinOp: self._reckoned,
            ast.Name: self._named,
            ast.Constant: self._constant,
            ast.List: self._list,
            ast.Tuple: self._list,
            ast.Call: self._called,
        }
        reader = readers.get(type(node))
        if reader is None:
            raise ConditionError(f"{ast.unparse(node)!r} is not allowed in a condition; write such as {_SUCH_AS}")
        return reader(node)

    def _joined(self, node: ast.BoolOp) -> _Value:
        parts = [self._read(value) for value in node.values]
        decides = isinstance(node.op, ast.Or)

        def value(row: Row) -> bool | None:
            unknown = False
            for part in parts:
                found = _truth(part(row))
                if found is decides:
                    return decides
                unknown = unknown or found is None
            return None if unknown else not decides

        return value

    def _unary(self, node: ast.UnaryOp) -> _Value:
        inner = self._read(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda row: None if (found := _truth(inner(row))) is None else not found
        if isinstance(node.op, ast.USub):
            return lambda row: None if (found := inner(row)) is None else -found
        raise ConditionError(f"{ast.unparse(node)!r} is not allowed in a condition")

    def _compared(self, node: ast.Compare) -> _Value:
        values = [self._read(value) for value in (node.left, *node.comparators)]
        if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            last = node.comparators[-1]
            if len(node.ops) > 1 or not (isinstance(last, ast.Constant) and last.value is None):
                raise ConditionError(f"{ast.unparse(node)!r}: 'is' is for None; compare with ==")
            wanted = isinstance(node.ops[0], ast.Is)
            return lambda row: (values[0](row) is None) is wanted
        tests = [_COMPARED[type(op)] for op in node.ops]

        def value(row: Row) -> bool | None:
            found = [v(row) for v in values]
            if any(v is None for v in found):
                return None
            return all(test(a, b) for test, a, b in zip(tests, found, found[1:], strict=False))

        return value

    def _reckoned(self, node: ast.BinOp) -> _Value:
        work = _RECKONED.get(type(node.op))
        if work is None:
            raise ConditionError(f"{ast.unparse(node)!r} is not allowed in a condition; there are + - * and /")
        left, right = self._read(node.left), self._read(node.right)

        def value(row: Row) -> Any:
            a, b = left(row), right(row)
            if a is None or b is None:
                return None
            if not (_is_number(a) and _is_number(b)):
                raise TypeError(f"{ast.unparse(node)!r} reckons with {a!r} and {b!r}, which are not both numbers")
            return None if work is operator.truediv and b == 0 else work(a, b)

        return value

    def _named(self, node: ast.Name) -> _Value:
        return self._column(node.id)

    def _constant(self, node: ast.Constant) -> _Value:
        value = node.value
        if value is not None and not isinstance(value, str | int | float | bool):
            raise ConditionError(f"{ast.unparse(node)!r} is not allowed in a condition")
        return lambda row: value

    def _list(self, node: ast.List | ast.Tuple) -> _Value:
        if not all(isinstance(e, ast.Constant) or _is_negative(e) for e in node.elts):
            raise ConditionError(f"{ast.unparse(node)!r}: a list holds texts and numbers only")
        values = [self._read(e)({}) for e in node.elts]
        return lambda row: values

    def _called(self, node: ast.Call) -> _Value:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if node.keywords or len(node.args) != 1 or name not in ("len", "column"):
            raise ConditionError(f"{ast.unparse(node)!r} is not allowed in a condition; there are len() and column()")
        if name == "column":
            given = node.args[0]
            if not (isinstance(given, ast.Constant) and isinstance(given.value, str)):
                raise ConditionError(f"{ast.unparse(node)!r}: column() takes a name in quotes")
            return self._column(given.value)
        inner = self._read(node.args[0])
        return lambda row: None if (found := inner(row)) is None else len(found)

    def _column(self, name: str) -> _Value:
        if name not in self._columns:
            near = get_close_matches(name, list(self._columns), 1)
            hint = f"did you mean {near[0]}?" if near else f"columns: {', '.join(self._columns)}"
            raise ConditionError(f"{self.text!r}: the table has no column {name!r}; {hint} (texts stand in quotes)")
        return lambda row: row.get(name)


_SUCH_AS = "'score > 0.8 and status == \"normal\"'"


def _truth(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise TypeError(f"{value!r} is neither true nor false; compare it")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def beyond_quantile(
    rows: Sequence[Row], share: float, *, by: str = "score", within: str | None = None, lowest: bool = False
) -> list[bool]:
    """For each row, whether its value is at or above a quantile of all values; rows without one are not.

    Args:
        rows: of the table.
        share: the quantile, between 0 and 1: 0.9 keeps the highest tenth.
        by: column of the values.
        within: a column; each of its values has a quantile of its own, such as each prompt.
        lowest: at or below it instead.

    Raises:
        ConditionError: if the quantile or a value is not a number, or there is no such column.
    """
    if not 0 <= share <= 1:
        raise ConditionError(f"quantile={share:g} must be from 0 to 1")
    for name in (by, within):
        if name is not None and not any(name in row for row in rows):
            raise ConditionError(f"the table has no column {name!r}")
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.get(by) is not None:
            if not _is_number(row[by]):
                raise ConditionError(f"the column {by!r} holds {row[by]!r}, which is not a number; name another")
            groups.setdefault(_group(row, within), []).append(row[by])
    ends = {group: float(np.quantile(values, share)) for group, values in groups.items()}
    past = operator.le if lowest else operator.ge
    return [row.get(by) is not None and past(row[by], ends[_group(row, within)]) for row in rows]


def _group(row: Row, within: str | None) -> str:
    return "" if within is None else repr(row.get(within))
