"""The groups of measurements that a pipeline can choose from. All are taken unless it names some.

What every document has (`columns.text_columns`, hashes, language, gzip ratio, MinHash) belongs to no group: later
stations rely on it. A group serves profiles; a new one is a module with a `Group` and a line here.
"""

from __future__ import annotations

from collections.abc import Iterable

from curation.measure.code.group import GROUP as CODE
from curation.measure.datatrove import GROUP as DATATROVE
from curation.measure.entropy import GROUP as ENTROPY
from curation.measure.group import Group
from curation.measure.madlad import GROUP as MADLAD
from curation.measure.pii import GROUP as PII
from curation.measure.url import GROUP as URL

GROUPS: dict[str, Group] = {group.name: group for group in (CODE, DATATROVE, ENTROPY, MADLAD, PII, URL)}


def chosen(names: Iterable[str] | None) -> list[Group]:
    """The groups of these names, all for None, in the order of GROUPS. Raises ValueError for an unknown name."""
    if names is None:
        return list(GROUPS.values())
    names = set(names)
    if unknown := sorted(names - set(GROUPS)):
        raise ValueError(f"there is no group '{unknown[0]}'; choose among {', '.join(GROUPS) or 'none'}")
    return [group for name, group in GROUPS.items() if name in names]
