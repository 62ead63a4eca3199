"""The rows of the law table, from a file for each family of algorithms.

Adding an algorithm is adding a row to ROWS; REDUCTIONS (a hyper-parameter of zero is the parent) and STILL (a rate of
zero moves nothing) where they say something of it.
"""

from . import rows_averaging, rows_distillation, rows_generators, rows_heads, rows_meta, rows_personal, rows_rounds
from .bench import Reduction, Row, Still

FAMILIES = (rows_averaging, rows_meta, rows_heads, rows_personal, rows_rounds, rows_distillation, rows_generators)

ROWS: list[Row] = [row for family in FAMILIES for row in family.ROWS]
REDUCTIONS: dict[str, Reduction] = {name: made for family in FAMILIES for name, made in family.REDUCTIONS.items()}
STILL: dict[str, Still] = {name: made for family in FAMILIES for name, made in family.STILL.items()}
