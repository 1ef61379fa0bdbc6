"""The guard: a small process that outlives ours, and ends the programs that we started if we are killed.

It is run by its path, alone, and imports nothing of Flowscout. Lines `+PID` and `-PID` on its standard input say
which process groups are under way; the end of the input means that whoever wrote them is dead, or done.
"""

import os
import signal
import sys


def main() -> None:
    """Read which groups are under way until nobody writes any more, then kill those that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line[1:])
        if line[0] == "+":
            groups.add(number)
        else:
            groups.discard(number)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


if __name__ == "__main__":
    main()
