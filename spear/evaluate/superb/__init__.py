"""The SUPERB benchmark: ten tasks on frozen encoders with one engine (arXiv 2105.01051; benchmarks A)."""
