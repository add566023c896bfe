"""Kept on the disk: any file (files), JSON and arrays of ours (json_files, array_files), runs (recordings)."""
