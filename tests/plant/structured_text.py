"""Runs a function block written in Structured Text: its syntax tree becomes Python.

Only what the block of deploy/plc uses is known; anything else is refused. It is stricter than
controllers are: both sides of AND and OR are evaluated, types must agree without conversion, an
index out of bounds and a temporary read before it was set are errors.
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blark
from blark import transform as ast

Code = tuple[str, Any]
"""A Python expression and its type: an elementary name, a structure's name, an `_Array`, or None
for a literal, which takes the type of its neighbour."""

_RANGES = {"BYTE": range(1 << 8), "INT": range(-(1 << 15), 1 << 15), "UDINT": range(1 << 32)}
_CONVERSIONS = {"BYTE_TO_UDINT": ("BYTE", "UDINT"), "BYTE_TO_INT": ("BYTE", "INT")}
_ARITHMETIC = {"+": "+", "-": "-", "*": "*", "/": "//", "MOD": "%"}
_COMPARISON = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LOGIC = {"AND": "&", "OR": "|"}


class _Array(tuple[int, int, Any]):
    """First index, last index, element type. At run time a dict, so that bounds are kept."""


class Instance:
    """One use of a function block, with `variables` of its own."""

    def __init__(self, block: "FunctionBlock") -> None:
        self._block = block
        self.variables = block.initial()

    def call(self, **inputs: Any) -> None:
        """One call with these inputs; the others keep their values. Bytes become an array."""
        for name, value in inputs.items():
            if name not in self._block.inputs:
                raise AttributeError(name)
            array = isinstance(value, bytes)
            setattr(self.variables, name, dict(enumerate(value)) if array else value)
        self._block.scan(self.variables)


class FunctionBlock:
    """The block as it is written. `scan` does one call on the variables of an instance."""

    def __init__(self, source: str, types: str, *, temporaries_bits: int) -> None:
        """`temporaries_bits`: where the controller cuts what is computed within an expression."""
        self._bits = temporaries_bits
        self._structures = {
            item.declaration.name: dict(_declared(item.declaration.declarations))
            for item in _parse(types)
        }
        (block,) = _parse(source)
        self._types: dict[str, Any] = {}
        self._first: dict[str, Any] = {}
        self._writable: set[str] = set()
        self._temporaries: set[str] = set()
        self.inputs: set[str] = set()
        for section in block.declarations:
            self._declare(section)
        arrays = [n for n in sorted(self._temporaries) if isinstance(self._types[n], _Array)]
        lines = [f"{self._name(n)} = {{}}" for n in arrays] + self._statements(block.body)
        space: dict[str, Any] = {}
        exec("\n".join(["def scan(v):", *_indented(lines)]), space)
        self.scan = space["scan"]

    def initial(self) -> SimpleNamespace:
        kept = [name for name in self._types if name not in self._temporaries]
        return SimpleNamespace(**{n: self._first.get(n, self._new(self._types[n])) for n in kept})

    def _declare(self, section: Any) -> None:
        temporary = isinstance(section, ast.TemporaryVariableDeclarations)
        for name, (kind, first) in _declared(section.items):
            self._types[name] = kind
            if first is not None:
                self._first[name] = first
            if temporary:
                self._temporaries.add(name)
            if isinstance(section, ast.InputDeclarations):
                self.inputs.add(name)
            elif temporary or section.attrs is None:  # the rest is CONSTANT
                self._writable.add(name)

    def _name(self, name: str) -> str:
        """Temporaries are locals of the call, so that none outlives it."""
        return f"temp_{name}" if name in self._temporaries else f"v.{name}"

    def _new(self, kind: Any) -> Any:
        if isinstance(kind, _Array):
            first, last, element = kind
            return {index: self._new(element) for index in range(first, last + 1)}
        if kind in self._structures:
            fields = self._structures[kind].items()
            return SimpleNamespace(**{name: self._new(part) for name, (part, _) in fields})
        return False if kind == "BOOL" else 0

    def _statements(self, body: Any) -> list[str]:
        return [line for statement in body.statements for line in self._statement(statement)]

    def _statement(self, node: Any) -> list[str]:
        match node:
            case ast.AssignmentStatement(variables=[target]):
                return [self._assignment(target, node.expression)]
            case ast.IfStatement():
                lines = [f"if {self._typed(node.if_expression, 'BOOL')}:"]
                lines += _indented(self._statements(node.statements))
                for branch in node.else_ifs:
                    lines += [f"elif {self._typed(branch.if_expression, 'BOOL')}:"]
                    lines += _indented(self._statements(branch.statements))
                if node.else_clause:
                    lines += ["else:", *_indented(self._statements(node.else_clause.statements))]
                return lines
            case ast.ForStatement(step=None):
                index = self._target(node.control, "INT")
                first, last = self._typed(node.from_, "INT"), self._typed(node.to, "INT")
                body = self._statements(node.statements)
                return [f"for {index} in range({first}, {last} + 1):", *_indented(body)]
        raise NotImplementedError(f"statement {type(node).__name__}: {node}")

    def _assignment(self, target: Any, expression: Any) -> str:
        _, kind = self._expression(target)
        value = self._typed(expression, kind)
        return f"{self._target(target, kind)} = {_cut(value, kind)}"

    def _target(self, node: Any, expected: Any) -> str:
        name = str(node.name.name if isinstance(node, ast.MultiElementVariable) else node.name)
        if name not in self._writable:
            raise TypeError(f"{name} is assigned, but is an input or a constant")
        return self._typed(node, expected)

    def _typed(self, node: Any, expected: Any) -> str:
        code, kind = self._expression(node)
        _agree(kind, expected, node)
        if kind is None and int(code) not in _RANGES[expected]:
            raise TypeError(f"{node} does not fit {expected}")
        return code

    def _expression(self, node: Any) -> Code:
        match node:
            case ast.Boolean():
                return str(str(node.value).upper() == "TRUE"), "BOOL"
            case ast.Integer():
                return str(_number(node)), None
            case ast.ParenthesizedExpression():
                return self._expression(node.expr)
            case ast.SimpleVariable():
                return self._name(str(node.name)), self._types[str(node.name)]
            case ast.MultiElementVariable():
                return self._element(node)
            case ast.FunctionCall(parameters=[argument]):
                takes, gives = _CONVERSIONS[str(node.name)]
                return self._typed(argument.value, takes), gives
            case ast.UnaryOperation(op="NOT"):
                return f"(not {self._typed(node.expr, 'BOOL')})", "BOOL"
            case ast.BinaryOperation():
                return self._operation(node)
        raise NotImplementedError(f"expression {type(node).__name__}: {node}")

    def _element(self, node: Any) -> Code:
        code, kind = self._expression(node.name)
        for element in node.elements:
            match element:
                case ast.SubscriptList(subscripts=[index]):
                    code, kind = f"{code}[{self._typed(index, 'INT')}]", kind[2]
                case ast.FieldSelector():
                    name = str(element.field.name)
                    code, kind = f"{code}.{name}", self._structures[kind][name][0]
        return code, kind

    def _operation(self, node: Any) -> Code:
        operator = str(node.op).upper()
        left, right = self._expression(node.left)[1], self._expression(node.right)[1]
        _agree(left, right, node)
        kind = left or right
        pair = (self._typed(node.left, kind), self._typed(node.right, kind))
        if operator in _COMPARISON:
            return f"({pair[0]} {_COMPARISON[operator]} {pair[1]})", "BOOL"
        if operator in _LOGIC and kind in ("BOOL", "BYTE"):
            return f"({pair[0]} {_LOGIC[operator]} {pair[1]})", kind
        if operator in _ARITHMETIC and kind in ("INT", "UDINT"):
            code = f"({pair[0]} {_ARITHMETIC[operator]} {pair[1]})"
            # Unsigned temporaries are cut at the controller's width; signed ones never get there.
            return (f"({code} & {(1 << self._bits) - 1})" if kind == "UDINT" else code), kind
        raise NotImplementedError(f"{operator} on {kind}: {node}")


def _parse(source: str) -> list[Any]:
    return list(blark.parse_source_code(source, fn=Path("memory.st")).transform().items)


def _declared(declarations: Iterable[Any]) -> Iterable[tuple[str, tuple[Any, int | bool | None]]]:
    """Names with type and initial value."""
    for declaration in declarations:
        spec, value = declaration.init.spec, declaration.init.value
        if isinstance(spec, ast.ArraySpecification):
            (bounds,) = spec.subranges
            element = str(spec.type.type_name)
            kind: Any = _Array((_number(bounds.start), _number(bounds.stop), element))
        else:
            kind = str(spec.type)
        first = None if value is None else _initial(value)
        for declared in declaration.variables:
            yield str(declared.variable.name), (kind, first)


def _initial(node: Any) -> int | bool:
    return str(node.value).upper() == "TRUE" if isinstance(node, ast.Boolean) else _number(node)


def _number(node: Any) -> int:
    digits = str(node.value).replace("_", "")
    return int(digits, 16 if isinstance(node, ast.HexInteger) else 10)


def _agree(one: Any, other: Any, node: Any) -> None:
    if None not in (one, other) and one != other:
        raise TypeError(f"{one} meets {other} in {node}")


def _cut(code: str, kind: Any) -> str:
    if kind == "UDINT":
        return f"{code} & {_RANGES['UDINT'].stop - 1}"
    if kind == "INT":
        return f"({code} + 32768) % 65536 - 32768"
    return code


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
