"""Projects for Vivado: boards, block design, constraints, and their check without Vivado."""
