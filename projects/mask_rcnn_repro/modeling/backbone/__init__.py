"""Backbones of any width with Detectron2's state-dict keys: ResNet, ResNeXt, FPN, non-local."""
