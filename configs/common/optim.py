"""SGD as in section 3.1: learning rate 0.02 for 16 images, momentum 0.9, weight decay 1e-4."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

optimizer = L(torch.optim.SGD)(
    # Norm layers are frozen in the paper's models; profiles that train them do not decay them.
    # Biases learn twice as fast and do not decay, as in Fast R-CNN, which the paper follows.
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}", weight_decay_norm=0.0, bias_lr_factor=2.0, weight_decay_bias=0.0
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
