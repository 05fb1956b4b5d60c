"""Tests of scoring many images."""
