"""Syntax tree -> Program: names, shapes, compile-time control flow, parameters, the cut into units, the recipe.

elaborate(module, defines, library) -> Program      program.py
file_library(folder) -> library                     library.py
"""

from mlc.elaborate.library import file_library as file_library
from mlc.elaborate.program import elaborate as elaborate
