"""Readings of the host, its cgroups, its GPUs and the workers, each Known or Missing. Decides and raises nothing."""
