"""`python -m celosia.gen.binary.train`."""

from .train import main

main()
