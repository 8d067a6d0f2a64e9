"""The sections of a report, a file each: table, figure and sentences together, with the numbers
that all three show.
"""
