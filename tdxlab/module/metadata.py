"""Metadata fields: find the one that an id names, may the caller, read it, write some of its bits, name the next one.

[S01:metadata_generic.c, metadata_td.c, metadata_vp.c]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tdxlab.engine.cells import Record
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.state import Td
from tdxlab.spec import status as st
from tdxlab.spec.bits import field, place
from tdxlab.spec.features import ModuleFeatures, release
from tdxlab.spec.fields import DEBUGGER, FIELDS, HOST, NO_FIELD, Attributes, Context, Field, FieldId
from tdxlab.spec.operands import Operand

MUST_BE_0 = (
    FieldId._RESERVED | FieldId._RESERVED2 | FieldId._RESERVED3 | FieldId._RESERVED4
    | FieldId.LAST_ELEMENT | FieldId.LAST_FIELD
)  # fmt: skip


class Form(NamedTuple):
    """How an element is made of an attribute, and the attribute of an element that was written."""

    shown: Callable[[Any, int], int]
    """(attribute, number of the element) -> element"""
    stored: Callable[[Any, int], Any] = lambda old, element: element
    """(attribute before, element) -> attribute"""


Rule = Callable[[Any, int, int, int], None]
"""(record, element before, after, bits written): refuses what the field can not be."""

PLAIN = Form(lambda value, i: int(value))


class Kind(NamedTuple):
    """The fields of a context: how those that are no plain numbers are shown, and what they can be set to."""

    context: Context
    forms: Mapping[str, Form] = {}
    rules: Mapping[str, Rule] = {}


class Element(NamedTuple):
    """One element of a field, and the id of what comes after it."""

    field: Field
    i: int
    next: int


class Change(NamedTuple):
    """A write that was checked: the attribute, its new value, and the element before as far as the caller sees it."""

    attribute: str
    value: Any
    old: int


def host_of(td: Td) -> str:
    """As whom the host reads and writes the TD's fields."""
    return DEBUGGER if td.attributes & Attributes.DEBUG else HOST


class View:
    """The fields of one kind, as a caller of a module version sees them."""

    __slots__ = ("caller", "kind", "rows")

    def __init__(self, kind: Kind, caller: str, features: ModuleFeatures) -> None:
        self.kind, self.caller = kind, caller
        self.rows = tuple(row for row in FIELDS[kind.context] if release(row.since) <= features.release)

    def find(self, id: int) -> Element:
        """The element of that class and code, whoever may use it.  The id's other bits do not matter."""
        for n, row in enumerate(self.rows):
            i = field(id, FieldId.CODE) - row.code
            if not (id ^ row.id) & FieldId.CLASS and 0 <= i < row.elements:
                return Element(row, i, self._in_context(id) + 1 if i + 1 < row.elements else self._first(n + 1))
        raise Refuse(st.TDX_METADATA_FIELD_ID_INCORRECT)

    def unnamed(self, id: int) -> bool:
        """Does the id name no field?"""
        return self._in_context(id) == self._in_context(NO_FIELD)

    def single(self, id: int) -> Element:
        """The element, from an id that names no more than that."""
        if id & MUST_BE_0:
            raise Refuse(st.TDX_METADATA_FIELD_ID_INCORRECT)
        return self.find(id)

    def readable(self, id: int, first: bool = True) -> Element:
        """The element, which the caller may read.  first: an id of no field gets the id of the first one in RDX."""
        if first and self.unnamed(id):
            raise Refuse(st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT, {"rdx": self._first(0)})
        element = self.single(id)
        if self.caller not in element.field.readers:
            raise Refuse(st.TDX_METADATA_FIELD_NOT_READABLE)
        return element

    async def read(self, record: Record, element: Element) -> int:
        """The value of an element of a TD or a vCPU."""
        row = element.field
        await step((record, row.reads, READ), at=f"read {row}")
        shown = self.kind.forms.get(row.name, PLAIN).shown
        return shown(getattr(record, row.reads), element.i) & row.ones

    async def changed(self, record: Record, id: int, value: int, mask: int) -> Change:
        """The write of an element's bits in `mask`, checked.  The last step is the caller's, to make it.

        Bits that can be seen but not written must be as they are.  Without a rule of its own a field is written by
        compare and exchange, so that of two writers one is refused BUSY.
        """
        element = self.single(id)
        row, old = element.field, await self.read(record, element)
        writable = row.mask if self.caller in row.writers else 0
        visible = old if self.caller in row.readers else 0
        if not writable & mask:
            raise Refuse(st.TDX_METADATA_FIELD_NOT_WRITABLE)
        if (visible ^ value) & mask & ~writable:
            raise Refuse(st.TDX_METADATA_FIELD_VALUE_NOT_VALID)
        new = old & ~(mask & writable) | value & mask & writable
        rule = self.kind.rules.get(row.name)
        if rule:
            rule(record, old, new, mask & writable)
        await step((record, row.reads, WRITE), at=f"write {row}")
        form, now = self.kind.forms.get(row.name, PLAIN), getattr(record, row.reads)
        if not rule and form.shown(now, element.i) & row.ones != old:
            raise Refuse(st.TDX_OPERAND_BUSY.at(Operand.METADATA_FIELD))
        return Change(row.reads, form.stored(now, new), visible)

    def _first(self, n: int) -> int:
        # the first row from number `n` on that the caller may read
        return next((row.id for row in self.rows[n:] if self.caller in row.readers), NO_FIELD)

    def _in_context(self, id: int) -> int:
        return id & ~FieldId.CONTEXT | place(self.kind.context, FieldId.CONTEXT)
