"""Spectral unmixing: non-negative spectra and abundances whose product is a set of pixels."""
