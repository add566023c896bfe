"""Optimal transport between two schedules: ground cost, coupling, and the schedule read off it."""
