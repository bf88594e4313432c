"""What a person sees: parameters, progress, tables, figures, samples.

settings   the parameters of a notebook, checked and shown
progress   how far a loop is
terminal   the line of a command that runs notebooks, and how it is stopped
tables     the one table, as text, HTML and Markdown; checklists in its form
plots      figures
live       the curves of a training under way
clips      a clip that plays in the output
forms      parameters and questions to fill in, in JupyterLab
tracking   a run in Weights & Biases
look       what the model sees, reads and learns of a sample
"""
