"""Options from files and the environment, in layers."""
