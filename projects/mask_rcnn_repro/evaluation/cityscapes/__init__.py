"""Instance metrics of Cityscapes."""
