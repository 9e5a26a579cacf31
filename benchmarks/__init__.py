"""Benchmarks, printed by `make bench`. Process CPU time and ratios within one run, because machines are noisy.

NumPy and torch get the threads that they have in the program: what users do not set is not set here.
"""

from flexiast_cli.main import limit_blas_threads, limit_spinning

limit_blas_threads()
limit_spinning()
