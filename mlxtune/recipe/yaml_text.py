"""YAML text to plain values, in time that its length bounds, and a value as text. Knows no recipe, opens no file.

Everything in this package that reads YAML reads it here: recipes, --set and --vary, the front matter of README.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

# Values that aliases (`*name`) may repeat in addition to those written. Ten lines that each name the one before ten times
# ("billion laughs") would stand for ten billion.
MAX_REPEATED = 20_000


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `2e-4` is a number, and `yes`, `no`, `on`, `off` are text, so they can be labels."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


class YamlError(Exception):
    """A text that is not read as YAML.

    Attributes:
        message: Why.
        line: Where in the text, counted from 1; None where no line is to blame.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.line = message, line


class YamlSyntaxError(YamlError):
    """It is no YAML, or makes objects of other kinds than plain values."""


def read_yaml(
    text: str, loader: type[yaml.SafeLoader] = Loader, on_node: Callable[[yaml.Node], None] = lambda node: None
) -> Any:
    """The values that a text holds.

    Args:
        text: One YAML document.
        loader: How plain scalars are read.
        on_node: Is given the node that holds all others, with the lines of each, before `<<` is merged in them.

    Raises:
        YamlError: It cannot be read.

    >>> read_yaml("a: {rank: 8, alpha: &it 1e1}\\nb: *it")
    {'a': {'rank': 8, 'alpha': 10.0}, 'b': 10.0}
    """
    try:
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        on_node(node)
        return reader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        if "chomping or indentation" in what:  # '>' opens a block of text
            what += "; put a value that begins with > or | in quotes"
        raise YamlSyntaxError(f"not valid YAML: {what}", mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YamlError("this YAML is nested too deeply") from None
    except ValueError as error:
        raise YamlError(f"holds a value that cannot be read: {error}") from None


def flow_text(value: Any) -> str:
    """A value on one line, as a recipe would have it.

    >>> flow_text({"patience": 3, "rate": 0.0001}), flow_text([True, None])
    ('{patience: 3, rate: 1e-4}', '[true, null]')
    """
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _check_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The nodes below and including one, where each alias counts as what it names.

    Args:
        node: Of a graph in which an alias is another edge to the same node.
        sizes: What is known so far: id of a node -> its size, 0 while it is being counted.

    Raises:
        YamlError: Aliases repeat too much, or one stands in what it names.
    """
    size = sizes.get(id(node))
    if size is None:
        sizes[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [one for pair in inner for one in pair] if isinstance(node, yaml.MappingNode) else inner
        size = sizes[id(node)] = 1 + sum([_check_size(one, sizes) for one in nodes])
        if size > len(sizes) + MAX_REPEATED:
            line = node.start_mark.line + 1
            raise YamlError(
                f"its aliases expand to more than {MAX_REPEATED:,} values; write the values out instead", line
            )
    elif size == 0:
        raise YamlError("an alias is part of the value that it refers to, so it never ends", node.start_mark.line + 1)
    return size
