"""What a person sees: parameters, progress, tables, figures, samples.

settings   the parameters of a notebook, checked and shown
progress   how far a loop is
tables     the one table, as text, HTML and Markdown; checklists in its form
plots      figures
clips      a clip that plays where HTML is shown
tracking   a run in Weights & Biases
look       what the model sees, reads and learns of a sample
"""
