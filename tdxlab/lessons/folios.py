"""What becomes of a 2M folio of guest_memfd when a page of it is shared and taken back, by back end and references.

A reference that nobody expects (here: to page 7) may be that of a device which writes to the page, or KVM's own,
where it takes one for each page that it maps.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.guest.programs import accepts, touches
from tdxlab.kvm.guest_memfd import folio_ref_add
from tdxlab.lab import Lab
from tdxlab.lessons.ranges import ERRNO
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M
from tdxlab.td import Td

PAGE, REFERENCED = 5, 7
STAGES = ("accepted at 2M", "page 5 shared", "page 5 private", "page 5 used")


def stages(design: str, *, referenced: bool = False) -> dict[str, str]:
    """{stage: "9, 1", the order of page 5's folio and pages_2m, and what the ioctl returned if it did not work}.

    referenced: somebody holds a reference to page 7.
    """
    lab = Lab(design, cpus=1, grain="seamcall")
    td = lab.create_td(memory="2M")
    lab.must(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    if referenced:
        lab.alone(folio_ref_add(td.slot.gmem, REFERENCED, 1, 1))
    return dict(zip(STAGES, _stages(lab, td), strict=True))


def _stages(lab: Lab, td: Td) -> Iterator[str]:
    yield _told(td, 0)
    for private in (False, True):
        yield _told(td, lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, PAGE, PAGE + 1, private=private)))
    lab.must(td.vcpu(0, touches(PAGE * PAGE_SIZE)))
    yield _told(td, 0)


def _told(td: Td, ret: int) -> str:
    said = f", -{ERRNO[-ret]}" if ret else ""
    return f"{td.slot.gmem.folio_order(PAGE)}, {td.kvm.stat['pages_2m']}{said}"
