"""cosmos-rl, NVIDIA's engine for full scale: what lets it run from a plain pip install, and what reads its results.

__main__      train from the command line, start files for several machines
launch        one run, from its configuration to its last export
environment   the variables of its processes, redis, free ports
guardian      start it so that all of it can be ended; the parent of all its processes
supervisor    how far it is, and when it will not go on
log_lines     steps, exports, dead processes and tracebacks in its log
diagnose      whether a run did what it was asked to, and why not; by its log alone, too
failures      what can go wrong, and what helps
bridge        what is mended in the installed engine, in its own processes
reward_calls  our rewards, as it calls them
records       its metrics and completions, as a local run leaves them
"""
