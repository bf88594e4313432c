"""The helper package of the Cosmos-Reason1 post-training cookbook: one module per step of the walk."""
