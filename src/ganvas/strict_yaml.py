"""YAML as recipes are written in: safe, bounded, and without its traps."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Plain YAML without its traps: ``1e-4`` is a number, a key counts once, aliases cannot swell a file."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, which could make gigabytes of a few lines."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*); write the value again")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice."""
        tree = super().construct_mapping(node, deep=deep)
        if len(tree) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            raise yaml.YAMLError(f"the key '{next(n for n in names if names.count(n) > 1)}' is there twice")
        return tree


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """The value that YAML text holds.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # a date or number out of range, too many brackets: whatever Python says of it
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
