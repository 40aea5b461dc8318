"""The paper's printed numbers, and results beside them."""

from mask_rcnn_repro.paper.comparison import Difference, compare, format_comparison, format_results
from mask_rcnn_repro.paper.numbers import load_claims, load_tables, paper_numbers

__all__ = [
    "Difference", "compare", "format_comparison", "format_results", "load_claims", "load_tables",
    "paper_numbers",
]  # fmt: skip
