"""The machine: batteries, power meters, temperatures, processors, power modes."""
