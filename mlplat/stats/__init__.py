"""Pure numerics: sketches of columns that merge, and how far one distribution is from another."""

from mlplat.stats.column import ColumnSketch, Kind
from mlplat.stats.shift import outside, overlap, psi
from mlplat.stats.table import TableSketch
from mlplat.stats.values import Frequent

__all__ = ["ColumnSketch", "Frequent", "Kind", "TableSketch", "outside", "overlap", "psi"]
