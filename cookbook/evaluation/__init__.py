"""What a model is worth: it answers unseen questions, the answers are scored, the scores compared and reported.

predict       let a model answer; every answer is kept
predictions   the file of answers
scores        accuracy, form, tasks; models on the same items
statistics    intervals and paired tests
metrics/      what an answer is worth, by its kind
controls      the same questions with less to see
findings      the sentences behind the numbers
report        the page
published     NVIDIA's rules, and a recipe's card beside the published numbers
server        models behind a server, and a model as judge
"""
