"""The results endpoint: who may post answers, in what form, and what is said back.

What an answer means belongs in `flowscout.loop.receiving`. FastAPI is loaded when an endpoint is made.
"""
