"""Record full runs: probe, sampling, recorder, run; shelf and rows where they are kept on the disk."""
