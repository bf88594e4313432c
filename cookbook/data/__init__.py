"""From a clip and its label to the numbers that the model reads.

architecture  the seam between families of models: sizes, times, names
samples    one item of any dataset, in the chat format
contract   prompt, answer form and vision limits, with one hash; bound to every step
answers    the forms of answers, and the one reader of options
quantities the one reader of numbers and of spans of time
vision     how many frames, pixels and tokens a clip becomes
picture    which picture a player shows: stream, turn, time
video      mp4 files to frames, and a cache of what was read
encoder    samples to the tensors that the model takes
"""
