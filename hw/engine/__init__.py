"""The ternary matrix product: many activation vectors against one stream of packed weights."""
