"""Files whose errors name their place: YAML in which every value knows its line (suites, catalogue), text and JSON.

Stricter than plain YAML 1.1: duplicate keys are errors, and only `true`/`false` are Booleans (`no`, `off` stay text).
Validation errors of pydantic are reported as `file:line:column: path: what is wrong`, all at once, with a near word.
"""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evalsuite.errors import CannotRunError, EvalsuiteError, SuiteError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Path_ = tuple[str | int, ...]
"""Keys and indices from the top of the document to a value."""


class Located:
    """A parsed YAML document: `data`, and the mark of every key and value."""

    def __init__(self, source: str, data: Any, marks: dict[Path_, tuple[int, int]]) -> None:
        self.source = source
        self.data = data
        self._marks = marks

    def where(self, path: Path_) -> str:
        """`file:line:column` of the value at `path`, or of its nearest ancestor."""
        while path and path not in self._marks:
            path = path[:-1]
        line, column = self._marks.get(path, (1, 1))
        return f"{self.source}:{line}:{column}"

    def error(self, path: Path_, message: str) -> SuiteError:
        """A `SuiteError` that points at `path`."""
        return SuiteError(f"{self.where(path)}: {_dotted(path)}{message}")


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's `yes/no/on/off` Booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "tTfF":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(
        0, ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"))
    )


def parse(text: str, source: str) -> Located:
    """Parse YAML text; SuiteError for bad syntax, tags that build objects, or duplicate keys."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        marks: dict[Path_, tuple[int, int]] = {}
        if node is not None:
            _walk(node, (), marks, source)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise SuiteError(f"{source}:{at}: not valid YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise SuiteError(f"{source}:1:1: not valid YAML: {error}.") from None
    finally:
        loader.dispose()
    return Located(source, data, marks)


def read(path: Path) -> Located:
    """Parse a YAML file; CannotRunError if it cannot be read."""
    return parse(read_text(path), str(path))


def read_text(path: Path, broken: type[EvalsuiteError] = SuiteError) -> str:
    """The text of a file; CannotRunError if it cannot be read, `broken` if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CannotRunError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise broken(f"{path}:1:1: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def read_json(path: Path, broken: type[EvalsuiteError] = SuiteError) -> Any:
    """The document of a JSON file; errors as `read_text`, and `broken` with the place of a syntax error."""
    try:
        return json.loads(read_text(path, broken))
    except json.JSONDecodeError as error:
        raise broken(f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}).") from None


def _walk(node: yaml.Node, path: Path_, marks: dict[Path_, tuple[int, int]], source: str) -> None:
    marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            at = (key.start_mark.line + 1, key.start_mark.column + 1)
            if name in seen:
                raise SuiteError(f"{source}:{at[0]}:{at[1]}: key '{name}' stands twice; remove one.")
            seen.add(name)
            marks[(*path, name)] = at
            _walk(value, (*path, name), marks, source)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*path, i), marks, source)


def validate(located: Located, path: Path_, kind: type[Model]) -> Model:
    """Build `kind` from the value at `path`; one SuiteError that lists everything that is wrong."""
    value = located.data
    for part in path:
        value = value[part]
    if not isinstance(value, dict):
        raise located.error(path, f"expected keys and values, found {type(value).__name__}.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        lines = [_explain(located, path, item, kind) for item in error.errors()]
        raise SuiteError("\n".join(dict.fromkeys(lines))) from None


def _explain(located: Located, path: Path_, item: Any, kind: type[BaseModel]) -> str:
    loc = (*path, *item["loc"])
    where, value = located.where(loc), item.get("input")
    if item["type"] == "extra_forbidden":
        known = _keys_at(kind, item["loc"][:-1])
        return f"{where}: unknown key '{_dotted(loc)[:-2]}'.{did_you_mean(str(loc[-1]), known) if known else ''}"
    if item["type"] == "missing":
        return f"{where}: missing key '{loc[-1]}'{' in ' + _dotted(loc[:-1])[:-2] if loc[:-1] else ''}. State it."
    shown = "" if isinstance(value, dict | list) else f" (found: {value!r})"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: {_dotted(loc)}{message}{shown}."


def _keys_at(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """The field names allowed at `loc` inside `kind`, as far as plain nested models tell; else none."""
    for part in loc:
        field = kind.model_fields.get(part) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        kind = field.annotation if field else None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return []


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return f"{text}: " if text else ""
