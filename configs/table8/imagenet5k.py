"""Table 8, row `+ ImageNet-5k`: from a classifier of 5000 classes instead of 1000 (X101-FPN,
minival).

Claim: ImageNet-5k improves masks and boxes. Such weights of ResNeXt-101-64x4d are not public, so
this row stops until it gets a file of them: the one below, looked for in the current folder, or
`train.init_checkpoint=FILE`, or `train.init_checkpoint=""` for random weights. Detectron's `.pkl`
and Detectron2's formats are read; pixel deviation 1, as for the weights of ImageNet-1k.
"""

from .e2e import dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = "ImageNetPretrained/X-101-64x4d-IN5k.pkl"

paper = dict(table="8", row="+ ImageNet-5k", control="table8/e2e")
