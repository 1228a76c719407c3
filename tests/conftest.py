"""Settings of all tests."""

from hypothesis import settings

# A deadline measures the machine, and this one may be busy.
settings.register_profile("palate", deadline=None)
settings.load_profile("palate")
