"""`burnish new`: recipes with example rows that run as they are, to be replaced by one's own.

Knows files and names; knows nothing about stages, models or machines.
"""
