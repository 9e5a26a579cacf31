"""What `flexiast doctor` looks at: each check is a function that returns findings and prints nothing."""

from flexiast_runtime.checks.finding import Finding, State

__all__ = ["Finding", "State"]
