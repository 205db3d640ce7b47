"""Measuring the engine: the suites of rows behind `gpucnn bench`.

row.py             what a row is: a call to time, and the float64 result that it must give
ops.py layers.py train.py          the suites,
case_row.py optimizer_row.py       and their kinds of rows (those of train.py are its own)
reference.py reference_net.py      the float64 results, in formulas of their own
verify.py          compares before anything is timed
measure.py         timers, interleaved windows, medians
peaks.py           what this machine reaches in a matrix product and in a copy
environment.py     what was measured on
compare_torch.py   the same rows in PyTorch; the only file that imports it
run.py             which rows; one row built, verified, timed
result.py report.py readme.py      figures, the table, JSON lines, the table in the README
profile.py         where the time of a step goes, by primitive
"""
