"""Benchmarks of lss-rs: data built from packages, peers, recorded results."""
