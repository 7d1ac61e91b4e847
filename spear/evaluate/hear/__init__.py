"""HEAR 2021 (Turian et al., arXiv 2203.03022): its tasks as they are distributed, on the one engine."""
