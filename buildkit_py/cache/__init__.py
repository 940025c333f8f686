"""Results by key: in the state root, and in caches that are imported and exported."""
