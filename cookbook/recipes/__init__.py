"""The steps of the recipes that need more than `cookbook.pipeline`: their data, their evaluation, their comparison."""
