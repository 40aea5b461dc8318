"""One trained run, shared by the tests of a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask_rcnn_embedded.quickstart import TINY_SPEC, ensure_generated
from mask_rcnn_tools.startup import quiet_dependencies

from .run_helpers import RUN, CommandResult, launch


@pytest.fixture(scope="session", autouse=True)
def clean_stderr() -> None:
    """Runs within the test process say what they do from the command line, whoever comes first.

    The launcher silences dependencies before it imports them; the data is generated, with its
    progress bar, before any run.
    """
    quiet_dependencies()
    ensure_generated(TINY_SPEC)


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """Folder and outcome of the quickstart at `tiny`, trained with default settings."""
    folder = tmp_path_factory.mktemp("trained")
    outcome = launch(folder)
    outcome.succeeded()
    return folder, outcome


@pytest.fixture(scope="session")
def trained(training: tuple[Path, CommandResult]) -> Path:
    """The run's folder; not to be written to."""
    return training[0] / RUN
