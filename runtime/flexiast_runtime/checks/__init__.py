"""The checks of `flexiast doctor`. Each is a function that returns results and prints nothing."""

from flexiast_runtime.checks.result import CheckResult, State

__all__ = ["CheckResult", "State"]
