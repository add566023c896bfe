"""Compare methods on one pipeline: job, runner, supervisor, worker, bench, folder, metrics, then collect."""
