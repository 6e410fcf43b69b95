"""The TDX module: one file per family of leaves, each leaf a function of one shape.

Locks in the documented order, checks, the line "all checks passed", then updates that can not fail.  A refusal is
raised; only `call` makes a status of it and gives the locks back.  A contradiction in the PAMT stops the machine.
Left out: the module's other fatal errors.
"""

from tdxlab.module import (
    mem_page,
    mem_range,
    mem_rd,
    mem_sept,
    mem_size,
    mem_track,
    mng,
    mng_rd,
    mr,
    phymem,
    phymem_pamt,
    sys,
    sys_rd,
    sys_shutdown,
    tdg_mem,
    tdg_mr,
    tdg_vp,
    vp,
    vp_rd,
)
from tdxlab.module.call import HANDLERS
from tdxlab.module.dispatch import TdxModule

FAMILIES = (
    sys,
    sys_shutdown,
    mng,
    vp,
    mem_page,
    mem_size,
    mem_range,
    mem_sept,
    mem_track,
    mr,
    phymem,
    phymem_pamt,
    sys_rd,
    mng_rd,
    vp_rd,
    mem_rd,
    tdg_vp,
    tdg_mem,
    tdg_mr,
)
__all__ = ["FAMILIES", "HANDLERS", "TdxModule"]
