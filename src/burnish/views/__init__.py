"""Artifacts and outcomes as terminal tables. Pure reading: nothing is computed here that an artifact does not hold."""
