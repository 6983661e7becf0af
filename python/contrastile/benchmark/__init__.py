"""Measuring losses: time against the limit of matrix products, peak memory, and error against float64.

`python -m contrastile bench`, the benchmarks of the repository and its GPU run are drivers of this package:

    suites.py      which losses and candidates there are, found again by name in a fresh process
    problem.py     one loss at one size and type: its inputs and operations
    check.py       the float64 truth, and whether a candidate may be reported
    clock.py       medians of candidates that run in turn
    limit.py       the rate of torch's matrix products, in the same turns
    memory.py      peak memory: a fresh process on a CPU, the allocator on a GPU
    measure.py     all of these on one problem: a record for each candidate
    record.py      the line of JSON
    growth.py      exponents, time ~ N^a and memory ~ N^b
    plots.py       both against N
"""
