"""A build in which nothing changed: its result is recalled, not worked out again.

`lookup` asks, with hardly an import, whether a recorded build still stands; `record` keeps one.
"""
