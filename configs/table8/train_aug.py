"""Table 8, row `+ train-time augm.`: shorter edge from 640 to 800 px, trained longer (X101-FPN,
minival).

Claim: train-time augm. improves masks and boxes. 260k iterations, divided by 10 at 200k and 240k
(appendix B). Any length between the two, as in section 5. Needs the weights of `imagenet5k`.
"""

from ..common.schedules import lr_multiplier_260k as lr_multiplier
from .imagenet5k import dataloader, model, optimizer, train

train.max_iter = 260_000
dataloader.train.mapper.augmentations[0].short_edge_length = [640, 800]
dataloader.train.mapper.augmentations[0].sample_style = "range"

paper = dict(table="8", row="+ train-time augm.", control="table8/imagenet5k")
