"""The paper's printed numbers, and results beside them."""

from mask_rcnn_repro.paper.numbers import load_claims, load_tables, paper_numbers
from mask_rcnn_repro.paper.report import Difference, compare, format_comparison, format_results

__all__ = [
    "Difference",
    "compare",
    "format_comparison",
    "format_results",
    "load_claims",
    "load_tables",
    "paper_numbers",
]
