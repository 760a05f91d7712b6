"""Infinity Supervisor: keeps an unmodified Infinity embedding server within an operator's limits."""

__version__ = "0.1.0"
