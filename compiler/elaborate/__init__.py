"""Syntax tree -> Program: names, shapes, compile-time control flow, parameters, the cut into units, the recipe.

elaborate(module, defines, library) -> Program      program.py
file_library(folder) -> library                     modules.py
"""

from mlc.elaborate.modules import file_library as file_library
from mlc.elaborate.program import elaborate as elaborate
