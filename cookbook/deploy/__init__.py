"""After training: a checkpoint made smaller, served, compared with what it was, and shared.

quantise  weights in 8 bits, in files that vLLM reads too; and what llm-compressor needs for the rest
app       a small OpenAI-compatible server of ours, for the tiny model
serve     the line that serves a checkpoint under its contract; started, waited for; what a server really sees
compare   the same questions for every form of a model: right answers, size, speed, and whether it is as good
share     a model card from what the runs have left, and what an upload would hold
"""
