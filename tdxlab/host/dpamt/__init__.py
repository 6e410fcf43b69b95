"""Dynamic PAMT on the host's side: a page pair for each 2M range that holds a page of a TD at 4K.

A range's pair is given to the module before its first page is (`tdx_pamt_get`) and taken back after its last
(`tdx_pamt_put`).  A 2M leaf needs none: while a pair is there the range cannot be mapped at 2M.

Read `refcount`, `pair`, then the question `get_put` with its answers in the order in which they came: `hints`, `v1` to
`v6`, then `locked` and `turned_down`; and `lock`.  (arch/x86/virt/vmx/tdx/tdx.c)
"""

from __future__ import annotations

from tdxlab.host.dpamt import get_put, hints, lock, locked, refcount, turned_down, v1, v2, v3, v4, v5, v6
from tdxlab.host.dpamt.control_page import (
    tdx_alloc_control_page,
    tdx_alloc_control_pages,
    tdx_free_control_page,
    tdx_free_control_pages,
)
from tdxlab.host.dpamt.get_put import tdx_pamt_get, tdx_pamt_put

VERSIONS = hints, v1, v2, v3, v4, v5, v6, locked, turned_down
QUESTIONS = get_put.question, lock.question, refcount.question

__all__ = [
    "QUESTIONS",
    "VERSIONS",
    "tdx_alloc_control_page",
    "tdx_alloc_control_pages",
    "tdx_free_control_page",
    "tdx_free_control_pages",
    "tdx_pamt_get",
    "tdx_pamt_put",
]
