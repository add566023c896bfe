"""Measure schedules on recorded runs: evaluator, schedule runs, replay, and the fit of forecast weights."""
