"""Binary32 datapaths of fixed latency: numbers, no addresses and no handshakes."""
