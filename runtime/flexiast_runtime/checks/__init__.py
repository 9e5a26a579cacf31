"""What `flexiast doctor` looks at: each check is a function that returns findings and prints nothing."""

from flexiast_runtime.checks.result import CheckResult, State

__all__ = ["CheckResult", "State"]
