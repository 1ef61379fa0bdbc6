"""The one place where secrets are read from the environment. They are never stored, logged or shown."""

import os

from flowscout.errors import ConfigError


def read_secret(name: str) -> bytes:
    """Return the secret that an environment variable holds.

    Raises:
        ConfigError: it is not set.
    """
    found = os.environ.get(name)
    if not found:
        raise ConfigError(
            f"the environment variable {name} is not set, expected a secret; set it where rounds run."
        )
    return found.encode()
