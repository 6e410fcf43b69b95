"""Facts as rows, each with its source on the line.  No await, no state: everything else is derived from here.

Source keys: [S01:file] is module 1.5.01 (github intel/tdx-module, branch tdx_1.5), [S25:file] module 1.5.25
(github murrowow/tdx-concurrency), [oracle] a recording of the running module, [M:who] a public mailing list.
"""
