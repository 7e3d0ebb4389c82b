"""Notebooks, to be opened in Jupyter; `pynq get-notebooks` copies this folder. See README.md."""
