"""The paper's printed numbers, and results as text."""

from mask_rcnn_repro.paper.numbers import load_claims, load_tables, paper_numbers
from mask_rcnn_repro.paper.summary import format_results

__all__ = ["format_results", "load_claims", "load_tables", "paper_numbers"]
