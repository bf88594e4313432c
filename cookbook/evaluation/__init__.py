"""What a model is worth: it answers unseen questions, the answers are scored, the scores compared and reported.

predict       let a model answer; every answer is kept
presets       how answers are drawn, by the name of a published setting
parallel      a process a GPU
predictions   the file of answers
scores        accuracy, form, tasks; models on the same items, what they won and lost
statistics    intervals and paired tests
metrics/      what an answer is worth, by its kind
controls      the same questions with less to see, or with turned options
findings      the sentences behind the numbers
outcome       the same of a training: did the reward rise, did an alarm go off
report        the page
published     NVIDIA's rule, and a recipe's card beside the published numbers
server        models behind a server, and a model as judge
vllm          such a server, started for a checkpoint where vLLM is installed
__main__      stored answers scored again, without a model
"""
