"""The paper's printed numbers and its claims."""

from mask_rcnn_repro.paper.numbers import load_claims, load_tables, paper_numbers

__all__ = ["load_claims", "load_tables", "paper_numbers"]
