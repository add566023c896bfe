"""Any file (files), JSON and array files of ours (json_files, array_files), recorded runs (recordings)."""
