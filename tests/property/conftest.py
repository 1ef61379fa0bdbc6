"""How hypothesis runs here."""

from hypothesis import settings

# No deadline: a busy machine is not a bug, and timings are never asserted in tests.
settings.register_profile("flowscout", deadline=None, max_examples=100)
settings.load_profile("flowscout")
