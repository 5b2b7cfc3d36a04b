"""Measures what training changed: grades, intervals, paired tests, forgetting, and the page that shows them.

Gets answers and losses as functions and everything else as data; knows no model, no training loop and no server.
"""
