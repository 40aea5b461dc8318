"""Data distillation: a trained model annotates unlabeled images (appendix B; Radosavovic et al.).

`tools/distill.py` is the command; docs/data_distillation.md describes it.
"""
