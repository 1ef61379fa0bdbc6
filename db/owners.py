"""Which process holds a lease, and whether it still lives.

An owner is written as `host|pid|start`: the host's name with its boot id and pid namespace, the process id
and its start time. Only a process of the same host can be called dead.
"""

import os
import socket
from functools import cache
from pathlib import Path

import psutil


@cache
def _host() -> str:
    parts = [socket.gethostname()]
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    if boot_id.exists():
        parts.append(boot_id.read_text().strip())
        # Containers of one machine share the boot id, and may share the name, but not the process ids.
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return "/".join(parts).replace("|", "_")


def _start(pid: int) -> str | None:
    """Return when `pid` started, by a clock that nobody sets; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            return f"{psutil.Process(pid).create_time():.0f}"
        except psutil.NoSuchProcess:
            return None
    if fields[0] in "ZX":  # a zombie does nothing any more
        return None
    return fields[19]  # field 22 of proc(5): ticks since boot


def this_owner() -> str:
    """Return the owner text of this process."""
    return f"{_host()}|{os.getpid()}|{_start(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Return whether `owner` is a process of this host that no longer runs; False if nobody can say."""
    parts = _parts(owner)
    return parts is not None and parts[0] == _host() and _start(int(parts[1])) != parts[2]


def is_living(owner: str) -> bool:
    """Return whether `owner` is a process of this host that runs; False if nobody can say."""
    parts = _parts(owner)
    return parts is not None and parts[0] == _host() and _start(int(parts[1])) == parts[2]


def describe(owner: str) -> str:
    """Return `owner` as a person would say it."""
    parts = _parts(owner)
    return repr(owner) if parts is None else f"process {parts[1]} on {parts[0].split('/')[0]}"


def _parts(owner: str) -> tuple[str, str, str] | None:
    """Return host, process id and start; None for a text that somebody else wrote."""
    match owner.split("|"):
        case [host, pid, start] if pid.isdecimal():
            return host, pid, start
    return None
