"""Every decision, as functions and small state of values with `now` as an argument.

Nothing in here reads a clock, logs, awaits, draws random numbers or imports anything but the standard library's value
modules and itself: the same inputs give the same decision, in a test, in a replay and in production.
"""
