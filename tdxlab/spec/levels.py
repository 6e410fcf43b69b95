"""Page sizes and levels: KVM counts from 1, the module from 0, and only this file knows both.

In the rooms module and hw, and in registers, `level` is the module's; in host, kvm and guest it is PG_LEVEL_*.
"""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G, PG_LEVEL_512G, PG_LEVEL_256T = 1, 2, 3, 4, 5  # Linux enum pg_level
LEVEL_4K, LEVEL_2M, LEVEL_1G, LEVEL_512G, LEVEL_256T = 0, 1, 2, 3, 4  # [S01:tdx_api_defs.h] the module's

ENTRIES = 512
SIZE_4K, SIZE_2M, SIZE_1G = PAGE_SIZE, PAGE_SIZE * ENTRIES, PAGE_SIZE * ENTRIES * ENTRIES


def sized(nbytes: int) -> str:
    """Bytes as people write them, in the largest unit that gives a whole number: 16G."""
    for unit in ("", "K", "M", "G"):
        if not nbytes or nbytes % 1024:
            return f"{nbytes}{unit}"
        nbytes //= 1024
    return f"{nbytes}T"


def pg_level_to_tdx_sept_level(level: int) -> int:
    """KVM's PG_LEVEL_4K is the module's level 0."""
    return level - 1


def tdx_level_to_pg_level(level: int) -> int:
    """The module's level 0 is KVM's PG_LEVEL_4K."""
    return level + 1


SHIFTS = tuple(range(PAGE_SHIFT, PAGE_SHIFT + 9 * 5, 9))  # of the module's levels


def shift(level: int) -> int:
    """The address bits that an entry at a module level covers: 12, 21, 30, 39, 48."""
    return SHIFTS[level]


def size(level: int) -> int:
    """The bytes that an entry at a module level covers."""
    return 1 << shift(level)


def index(gpa: int, level: int) -> int:
    """The slot of `gpa` in its table whose entries are at a module level."""
    return gpa >> shift(level) & ENTRIES - 1
