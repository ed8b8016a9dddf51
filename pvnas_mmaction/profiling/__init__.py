"""What is measured on a machine: latencies of candidates and networks."""
