"""Fixtures of the tests of accuracy."""

from tests.small_data import decoding, small_data

__all__ = ["decoding", "small_data"]
