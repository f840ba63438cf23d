"""Packages that the abuse benchmark lets programs name."""
