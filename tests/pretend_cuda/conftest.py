"""Fixture of the pretended device, and the option that writes the table of waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from .pretend import Waits, pretended_cuda


def pytest_addoption(parser: pytest.Parser) -> None:
    """Is known if this folder is named on the command line."""
    parser.addoption("--write-waits", action="store_true", help="write tests/pretend_cuda/waits")


@pytest.fixture
def waits() -> Iterator[Waits]:
    """Waits for a pretended CUDA device 0, so far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pretended_cuda() as counted:
        yield counted
    torch.set_num_threads(threads)
