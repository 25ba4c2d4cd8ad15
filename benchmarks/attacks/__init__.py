"""Faults by area, one file each, which ends in the tuple CASES; attack.py finds the files by themselves."""
