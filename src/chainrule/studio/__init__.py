"""The page: a face of run folders, with nothing of its own but who waits for what."""
