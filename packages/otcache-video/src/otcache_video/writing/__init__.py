"""Writers of clips."""
