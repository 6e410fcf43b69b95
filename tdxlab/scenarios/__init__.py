"""Scenarios: one file is one question, with the machine that it is asked of and the claims that must come out.

`registry` says what a scenario is, `play` runs, explores and steps one by its name, `counts` sums a run up.
"""
