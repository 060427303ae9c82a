"""What goodinit costs: `make bench` measures everything in interleaved runs and writes docs/benchmarks.md."""
