"""Benchmarks, printed by `make bench`. Process CPU time and ratios within one run, because machines are noisy.

NumPy and torch get the threads that they have in the program: what users do not set is not set here.
"""

from flexiast_cli.main import let_threads_sleep, limit_blas_threads

limit_blas_threads()
let_threads_sleep()
