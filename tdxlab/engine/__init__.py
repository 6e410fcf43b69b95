"""Cells, steps, locks, schedules and searches.  This room knows nothing of TDX.

Read in this order: `cells` (all mutable state, and how it is undone), `step` (where another CPU may run),
`locks`, `run` (one execution under one schedule), `trace`, `claims`, `explore`, `stepper`.
The search that runs nothing twice: `access`, `history`, `wakeup`, `dpor`.  What it finds besides claims: `result`,
`deadlock`, `lock_order`, `livelock`, `storm`.
"""
