"""Rows of every known format, told apart, read into one canonical record, and written as they were read.

Knows the spellings people use for conversations, pairs, preferences and texts. Knows no files and no chat template.
"""
