"""Anything that holds examples or documents becomes a stream of raw rows: `read.read`.

Knows files, archives, tables, documents, URLs and databases. Knows no format of examples: what a row means is not its business.
"""
