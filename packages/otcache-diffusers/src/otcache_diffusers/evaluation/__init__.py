"""Measure schedules on recorded runs: evaluator, schedule_runs, replay, fit, guidance."""
