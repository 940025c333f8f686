"""Statements about images: how they were built (SLSA provenance), what they hold (SPDX)."""
