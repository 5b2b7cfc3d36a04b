"""Which row goes where, and the proof that nothing tested was trained on. Pure functions over arrays of hashes."""
