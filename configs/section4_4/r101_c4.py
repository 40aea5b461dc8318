"""Section 4.4, row `R101-C4 inference`: the time of an image with the C4 head (minival).

Claim: C4 is about twice as slow as FPN at R101. The same run as `table2a/r101_c4`. Its proposals
come from a file, so that the time in its record lacks the RPN's, unlike that of the control.
"""

from ..table2a.r101_c4 import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="timing", row="R101-C4 inference", control="section4_4/r101_fpn_shared")
