"""The governor on loads, batteries and heat that are made up or recorded."""
