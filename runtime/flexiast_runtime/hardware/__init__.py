"""The machine: batteries, meters, heat, processors, power profiles."""
