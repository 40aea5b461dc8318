"""Random state that depends on the seed and the iteration alone.

Every iteration seeds the generators with (seed, iteration, rank). A resumed run therefore samples
the same RoIs and anchors as an uninterrupted one, and checkpoints hold no generator state.
"""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch

logger = logging.getLogger(__name__)


def seed_everything(*key: int) -> None:
    """Seeds Python's, NumPy's and torch's (CPU and CUDA) generators from a tuple of integers."""
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


def make_deterministic() -> None:
    """Asks torch for deterministic kernels; operations that have none warn and stay as they are."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # would only warn, too
    torch.use_deterministic_algorithms(True, warn_only=True)
