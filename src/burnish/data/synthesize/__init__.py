"""Rows that a model writes, checked before they are used. The model comes as a function `complete(asks)`; no HTTP in here.

What leaves goes without personal data; what comes back must have the asked form, be new, be grounded, and please the judge.
"""
