"""The command line: the library returns, the CLI prints. stdout is data, stderr is everything else."""
