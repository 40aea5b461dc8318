"""Errors that a user can fix: commands print them without a traceback and exit with status 2."""

from __future__ import annotations


class UserError(Exception):
    """Base class of all user-fixable errors."""


class DataError(UserError, ValueError):
    """A data set, annotation file or image is missing, broken or inconsistent."""
