"""The page of `listen --web` and the server behind it."""
