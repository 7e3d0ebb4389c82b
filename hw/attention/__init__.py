"""Fused attention: query memory, slices (scores, softmax, values), merge, and the writer of cache records."""
