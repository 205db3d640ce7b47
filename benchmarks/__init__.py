"""Measuring the engine: the suites of rows behind `gpucnn bench`.

row.py             what a row is: a call to time in several variants, and the float64 result that
                   it must give
ops.py layers.py train.py epoch.py scaling.py overhead.py        the suites,
case_row.py net_row.py optimizer_row.py                          and their kinds of rows
memory.py memory_child.py          the suite of what is not a time
reference.py reference_net.py      the float64 results, in formulas of their own
verify.py          compares before anything is timed
measure.py         timers, runs of alternating windows, medians
peaks.py           what this machine reaches in a matrix product and in a copy
environment.py malloc.py           what was measured on
compare_torch.py   the same rows in PyTorch; the only file that imports it
torch_nets.py torch_epoch.py       its nets and modes, its loop over an epoch
run.py             which rows; rows built, verified, timed
session.py         one run of the command
check_first.py     `gpucnn check` before a GPU is timed
result.py columns.py report.py readme.py    figures, the table, JSON lines, the table in the README
profile.py         where the time of a step goes, by primitive
"""
