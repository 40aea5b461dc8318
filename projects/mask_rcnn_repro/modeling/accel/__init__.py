"""Computations that replace PyTorch's or torchvision's: equal up to rounding, and faster.

| file | what it does | device |
|---|---|---|
| compiled_roi_layers.py | RoI layers by compiled loops: which apply, forward, backward | CPU |
| roi_align_kernels.py, roi_pool_kernels.py | their loops | CPU |
| deterministic_roi_layers.py | RoI layers whose backward passes sum in a fixed order | CUDA |
| onednn.py | convolutions and linear layers with what follows fused in | CPU; else in steps |
| winograd.py, winograd_kernels.py | wide 3x3 convolutions | CPU |
| sparse_rpn_head.py | RPN head whose backward pass reads only sampled places | CPU |
| bfloat16.py | bfloat16 numbers in compiled loops | CPU |

Imports nothing from the rest of `modeling`.
"""
