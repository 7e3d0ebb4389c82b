"""The binary machine: products of +-1 by XNOR and popcount, and what an encoder needs around them."""
