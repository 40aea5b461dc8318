"""Generated data sets with exact masks, in the layouts of COCO and Cityscapes; needs no torch."""
