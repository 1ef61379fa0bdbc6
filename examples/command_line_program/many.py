"""Requests come in as lines of JSON, answers go out as lines of JSON: one start for many objects."""

import json
import re
import subprocess
import sys

requests = [json.loads(line) for line in sys.stdin]
command = [sys.executable, "fold.py", *(one["object"] for one in requests)]
printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
energies = dict(re.findall(r"^(\S+)  energy = (\S+)", printed, flags=re.MULTILINE))
for one in requests:
    print(json.dumps({"key": one["key"], "value": float(energies[one["object"]])}))
