"""Pages to look at: one style, plots as inline SVG, templates in which every value is escaped.

A page is one file that loads nothing and runs no script, readable on a phone, in the dark and on paper.
"""
