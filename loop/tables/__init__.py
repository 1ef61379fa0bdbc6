"""Tables that people send: what their cells say, which rows they are, and the plates that they come from.

What is stored of them belongs in `db`, what is learned from them in `loop.fitting`.
"""
