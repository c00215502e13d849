"""Checks of host and guard for `guard doctor`."""
