"""Record full runs: probe, sampler, recorder, rows, full_runs, sampler_checks; facts and metering beside."""
