"""What all tests share."""

from hypothesis import settings

# Derandomized: a run says the same thing twice. No deadline: shared machines are slow at times.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")
