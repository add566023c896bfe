"""Files: any file (files), JSON and array files of ours (json_files, array_files), and recorded runs (recordings)."""
