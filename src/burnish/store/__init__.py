"""Bytes on disk: atomic files, artifacts by id, run folders, locks. Knows the nouns of core and nothing above."""
