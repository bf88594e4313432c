"""The two training loops, to be read, and what they stand on.

sft           copy good answers
grpo          learn from rewarded attempts
objective     advantages and loss of GRPO
optimizer     what learns, AdamW, and the engine's learning rates
checkpointer  exports, the state that a stopped run goes on from, and the end
rewards       what a completion earns
validation    accuracy on prompts that are not trained on; the best step by it
alarms        what goes wrong in a run, seen while it happens
"""
