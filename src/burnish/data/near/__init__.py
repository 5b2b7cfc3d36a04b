"""Rows that teach the same thing twice: exact, near and semantic duplicates, each removed against a row that is kept."""
