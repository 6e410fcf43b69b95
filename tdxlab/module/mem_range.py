"""TDH.MEM.RANGE.BLOCK and UNBLOCK: forbid and allow new translations through an entry."""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import backing, check_tracked, hold_entry, hold_td, must_track, split_gpa_level, write_entry
from tdxlab.spec import leaves
from tdxlab.spec.levels import LEVEL_4K
from tdxlab.spec.operands import RDX


@handles(leaves.TDH_MEM_RANGE_BLOCK)
async def tdh_mem_range_block(call: Call, gpa_level: int, tdr: int) -> None:
    """Forbid new translations, and note the TLB epoch in the PAMT entry behind, without its lock.

    Left out: L2 aliases.  Source: [S01:tdh_mem_range_block.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, td.top_level)
    entry, rule = await hold_entry(call, td, gpa, level, tree_exclusive=True)
    page = await backing(call, entry)

    # --- all checks passed ---
    assert rule.result is not None
    await step(entry.touch(), page.bepoch(WRITE), (td, "td_epoch", READ), at="update")
    write_entry(call, entry, sept.word_for(td, entry, rule.result))
    page.chunk.bepochs.put(page.i, td.td_epoch)


@handles(leaves.TDH_MEM_RANGE_UNBLOCK)
async def tdh_mem_range_unblock(call: Call, gpa_level: int, tdr: int) -> None:
    """Allow translations again.  Where the TD may run, TRACK must have come before.

    Left out: L2 aliases.  Source: [S01:tdh_mem_range_unblock.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, td.top_level)
    entry, rule = await hold_entry(call, td, gpa, level, tree_exclusive=True)
    if must_track(td, entry):
        await check_tracked(td, await backing(call, entry), call.features.unblock_tracking_operand)

    # --- all checks passed ---
    assert rule.result is not None
    await step(entry.touch(), at="update")
    write_entry(call, entry, sept.word_for(td, entry, rule.result))
