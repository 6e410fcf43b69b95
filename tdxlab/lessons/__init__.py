"""What notebooks do by hand: calls at register level one by one, and what the machine holds after each.

Read in this order: `entries` (the words behind one page), `locks` (of one call), `refusing` (which check refused it),
`leaves` (calls that are remembered and can be taken back), `td` (a TD built from them), `refusals` (each status,
provoked), `window` (two calls at once), `interrupts` and `rollback` (a DEMOTE that is interrupted, one that is stuck).
With KVM: `ranges` (memory given away, by design and by failure), `folios` (what becomes of the file's folios).
"""
