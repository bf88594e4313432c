"""The model at work: prompts to completions, and the vision tower in one pass.

decoding       one new token a row, again and again: on a GPU recorded and played back
generation     sample completions, and score them
vision_tower   the stock vision tower over a whole batch at once
"""
