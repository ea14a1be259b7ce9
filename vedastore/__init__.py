"""Labelled Earth-observation chips: Veda releases as Zarr stores, and back byte for byte."""
