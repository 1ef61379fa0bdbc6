"""Checks of what a campaign talks to: the Prefect server, the port of the results service, the device, secrets."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowscout.doctor.checks import Check, broken, ok, warning
from flowscout.errors import ConfigError, WorkError
from flowscout.loop.announcing import without_password
from flowscout.loop.secrets import MIN_TOKEN, read_secret, read_token

DRIVER = Path("/proc/driver/nvidia/version")


def check_prefect(url: str | None) -> Check:
    """Check that the Prefect server that the environment names can be reached; none need be named."""
    from flowscout.flows.embedded import answers

    if url is None:
        return ok("prefect", "PREFECT_API_URL is not set: `flowscout run` brings a server of its own")
    shown = without_password(url)
    if answers(url):
        return _check_password(url)
    return broken(
        "prefect",
        f"{shown} (PREFECT_API_URL) does not answer",
        "start it (`prefect server start`), correct the variable (it ends in /api), or unset it",
    )


def _check_password(url: str) -> Check:
    """Check that a server that answers lets us in."""
    from flowscout.loop.announcing import ServerRefusedError, call, server_of

    try:
        call(server_of(url), "GET", "admin/version")
    except ServerRefusedError as error:
        if error.status in (401, 403):
            return broken("prefect", str(error), "as it says")
    except (WorkError, ConfigError):
        pass  # it has answered, if not as Prefect does: that is said where it is used
    return ok("prefect", f"{without_password(url)} answers")


def check_port(port: int, *, host: str = "127.0.0.1", needed: bool = False) -> Check:
    """Check that the port of `flowscout serve-results` is free; it is broken only where it is needed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            found = f"{host}:{port} cannot be listened at: {error.strerror}"
            mend = "if it is not `flowscout serve-results` itself, serve at another: --port"
            return (broken if needed else warning)("port", found, mend)
    return ok("port", f"{host}:{port} is free")


def check_device(wanted: str) -> Check:
    """Check that the sampler can be trained where it is to be. Torch is loaded only where a GPU is in question."""
    if wanted == "cpu":
        return ok("device", "cpu, as the campaign file says")
    if wanted != "cuda" and not _has_driver():
        return ok("device", "cpu: no NVIDIA driver is here")
    import torch

    if torch.cuda.is_available():
        return ok("device", f"cuda: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
    found = f"torch {torch.__version__}, built {built}, finds no GPU"
    mend = (
        "install a torch that is built for the driver's CUDA, mend the driver (nvidia-smi), or set `device: cpu`"
    )
    return (broken if wanted == "cuda" else warning)("device", found, mend)


def check_secrets(config: dict[str, Any]) -> list[Check]:
    """Check that each environment variable that a campaign file names for a secret is set; none is shown."""
    return [_check_secret(key, name) for key, name in sorted(set(_named_secrets(config)))]


def _named_secrets(part: Any) -> Iterator[tuple[str, str]]:
    """Yield each key that names an environment variable, and the variable."""
    if isinstance(part, dict):
        for key, value in part.items():
            if str(key).endswith("_env") and isinstance(value, str):
                yield str(key), value
            yield from _named_secrets(value)
    elif isinstance(part, list | tuple):
        for one in part:
            yield from _named_secrets(one)


def _check_secret(key: str, name: str) -> Check:
    try:
        if key == "token_env":
            read_token(name, at_least=MIN_TOKEN)
        else:
            read_secret(name)
    except ConfigError as error:
        return broken(
            "secret", str(error), f"export {name}=... where rounds run; {key} of the campaign file names it"
        )
    return ok("secret", f"{name} is set ({key})")


def _has_driver() -> bool:
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None
