"""Keys of a YAML mapping as they are in its file, where one may be twice."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def keys_of(mapping: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
    """
    Go through the keys of a mapping; YAML itself takes the last of two equal ones, and forgets the values of the first.

    :param mapping: from ``yaml.compose``
    :return: key, value, and whether the key was there before
    """
    seen = set()
    for key, value in mapping.value:
        yield key, value, key.value in seen
        seen.add(key.value)
