"""Raw rows become a dataset: read, repair, personal data, duplicates, split, tokens, and a ledger that balances.

Knows files of rows and the rendering of text/. Knows no model, no training and no registry.
"""
