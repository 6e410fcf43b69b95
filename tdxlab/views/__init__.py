"""What people look at: text tables, figures, steppers, exports.  Views read traces and pictures and run nothing.

Read in this order: `palette`, `rows` (what a trace says, as plain rows), `text`, `frames` (what a stepper shows
between two steps), `terminal`, `stepping` (the widget), `plots`, `machine`, `export`.
"""
