"""Contract suites for whoever writes a space, surrogate, oracle or storage.

Each module holds one class of pytest tests: subclass it, provide its fixtures, and run pytest.
"""
