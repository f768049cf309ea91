"""Evidence: one module a paper or claim, run by ``python -m experiments``.

Each ``experiments/<topic>_<method>.py`` provides what ``experiments/_protocol.py`` describes.
"""
