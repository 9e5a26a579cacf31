"""Simulation: the governor under invented or recorded loads, batteries and heat."""
