"""What people look at: text tables, figures, steppers, exports.  Views read traces and pictures and run nothing.

Read in this order: `palette`, `rows` and `spans` (what a trace says), `text`, `strips` (what a picture holds),
`frames` (what a stepper shows between two steps), `terminal`, `stepping` (the widget), `film` (a run with a picture
after each step), `plots`, `timeline`, `machine`, `lesson` (the notebooks' controls), `export`.  For calls at
register level (`lessons`): `words` (fields of entries), `calls` (text), `sheets`, `bits`, `paths` and `ranges` (what a
`board` is made of), `reel`, `ladder`, `tryout` (the controls).  For what KVM does under several designs: `holds` (locks
over steps), `blocks` (what is left of memory), `costs` (locks, calls, owners of pages), `choose` (the controls).
For runs in time: `times`, `lanes`, `pamt_locks`, `pamt_lock_choice` (the controls).
For boots at full size: `charts` (a chart as data), `svg` and `printed` (its two forms), `pixels`; and what is drawn:
`contention`, `filling`, `boot_lanes`, `tornado`.
"""
