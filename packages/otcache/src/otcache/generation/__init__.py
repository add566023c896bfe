"""Make many images or videos by one policy: resumable, in several processes, into a folder or a store."""
