"""The small language in which lessons state what must hold, and name what they quote. It is never `eval`.

An expression is parsed once, when the lesson is read, and every node is held against a list of what is allowed:
names, `facts.part`, `tuple[0]`, comparisons, `and or not`, `+ - * /`, and calls of functions that the lab hands in.
Nothing of Python's own is reachable, so a lesson from a stranger can look and do no more.

A value that was not measured is None. Computing with it raises `NotMeasuredError`: the answer is *unknown*, not false.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_MAX_LENGTH = 500


class ExpressionError(Exception):
    """The expression is not in the language, or asks for something that does not exist. The text says which part."""


class NotMeasuredError(Exception):
    """A value that the expression needs was not measured."""


class Facts:
    """Values that an expression reads with a dot. The only objects whose attributes it can reach."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def read(self, name: str) -> Any:
        """The value called `name`, or `ExpressionError` that lists what there is."""
        if name not in self._values:
            raise ExpressionError(f"found .{name}; expected one of: {', '.join(sorted(self._values)) or 'nothing'}")
        return self._values[name]


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. `value(names)` computes it."""

    source: str
    tree: ast.expr

    def value(self, names: Mapping[str, Any]) -> Any:
        """Its value over `names` (values and functions). Raises `NotMeasuredError` and `ExpressionError`."""
        return _value(self.tree, names)


def read(source: str, known: Collection[str]) -> Expression:
    """Check `source` against the language and the `known` names. Raises `ExpressionError`."""
    if len(source) > _MAX_LENGTH:
        raise ExpressionError(f"found {len(source)} characters; expected at most {_MAX_LENGTH}")
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"found {source!r}, which cannot be read: {error}") from error
    _check(tree, known)
    return Expression(source, tree)


def _check(tree: ast.expr, known: Collection[str]) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"the nearest known name is {near[0]!r}" if near else f"known are: {', '.join(sorted(known))}"
                raise ExpressionError(f"found the name {name!r}; {hint}")
            case ast.Constant(value=value) if not isinstance(value, int | float | str):
                raise ExpressionError(f"found the constant {value!r}; expected a number, a text, True or False")
            case ast.Call(func=ast.Name(), keywords=keywords) if all(one.arg for one in keywords):
                pass
            case ast.Compare(ops=operators) if all(type(one) in _COMPARE for one in operators):
                pass
            case ast.BinOp(op=one) if type(one) in _ARITHMETIC:
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub()) | ast.Subscript(slice=ast.Constant(value=int())):
                pass
            case ast.Name() | ast.Constant() | ast.BoolOp() | ast.Attribute() | ast.keyword():
                pass
            case ast.expr_context() | ast.boolop() | ast.unaryop() | ast.operator() | ast.cmpop():
                pass
            case _:
                raise ExpressionError(f"found {type(node).__name__}, which a lesson cannot use")


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names[name]
        case ast.Attribute(value=owner, attr=name):
            return _attribute(_measured(owner, names), name)
        case ast.Subscript(value=owner, slice=ast.Constant(value=int() as place)):
            return _item(_measured(owner, names), place)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            given = {one.arg: _value(one.value, names) for one in keywords if one.arg}
            return _call(name, names[name], [_value(one, names) for one in args], given)
        case ast.BoolOp(op=op, values=values):
            return _boolean(op, values, names)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _measured(operand, names)
        case ast.UnaryOp(operand=operand):
            return _compute(operator.neg, _measured(operand, names))
        case ast.BinOp(left=left, op=op, right=right):
            return _compute(_ARITHMETIC[type(op)], _measured(left, names), _measured(right, names))
        case ast.Compare(left=left, ops=operators, comparators=others):
            return _compare(left, operators, others, names)
    raise ExpressionError(f"found {type(node).__name__}, which a lesson cannot use")


def _measured(node: ast.expr, names: Mapping[str, Any]) -> Any:
    value = _value(node, names)
    if value is None:
        raise NotMeasuredError(ast.unparse(node))
    return value


def _attribute(owner: Any, name: str) -> Any:
    if not isinstance(owner, Facts):
        raise ExpressionError(f"found .{name} on {owner!r}, which has no parts")
    return owner.read(name)


def _item(owner: Any, place: int) -> Any:
    if not isinstance(owner, tuple):
        raise ExpressionError(f"found [{place}] on {owner!r}, which is no list")
    return owner[place] if -len(owner) <= place < len(owner) else None


def _call(name: str, function: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    if not callable(function):
        raise ExpressionError(f"found {name}(...); {name} is a value, not a function")
    try:
        return function(*args, **keywords)
    except TypeError as error:
        raise ExpressionError(f"found wrong arguments for {name}: {error}") from error


def _boolean(op: ast.boolop, values: list[ast.expr], names: Mapping[str, Any]) -> bool:
    """As Python has it, left to right, stopping at the first value that decides."""
    decisive = isinstance(op, ast.Or)
    return any(bool(_measured(one, names)) is decisive for one in values) is decisive


def _compare(left: ast.expr, operators: list[ast.cmpop], others: list[ast.expr], names: Mapping[str, Any]) -> bool:
    values = [_measured(one, names) for one in (left, *others)]
    return all(_compute(_COMPARE[type(op)], *pair) for op, pair in zip(operators, pairwise(values), strict=True))


def _compute(function: Callable[..., Any], *values: Any) -> Any:
    try:
        return function(*values)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise ExpressionError(f"found {', '.join(map(repr, values))}: {error}") from error
