"""Memory access: AXI ports, bursts, queues. Knows addresses, not what they mean."""
