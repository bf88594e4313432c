"""What a person sees: parameters, progress, tables, figures, samples.

settings   the parameters of a notebook, checked and shown
progress   how far a loop is
terminal   the line of a command that runs notebooks, and how it is stopped
tables     the one table, as text, HTML and Markdown; checklists in its form
plots      figures
tracking   a run in Weights & Biases
look       what the model sees, reads and learns of a sample
"""
