"""Read and write files: any (files), JSON (json_files), arrays (array_files), recorded runs (recordings)."""
