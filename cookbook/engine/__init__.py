"""cosmos-rl, NVIDIA's engine for full scale: what lets it run from a plain pip install, and what reads its results."""
