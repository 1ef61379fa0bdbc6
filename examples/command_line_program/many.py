"""Requests come in as lines of JSON, answers go out as lines of JSON: one start for many objects."""

import json
import re
import subprocess
import sys

requests = [json.loads(line) for line in sys.stdin]
command = [sys.executable, "fold.py", *(one["object"] for one in requests)]
done = subprocess.run(command, capture_output=True, text=True)
energies = dict(re.findall(r"^(\S+)  energy = (\S+)", done.stdout, flags=re.MULTILINE))
for one in requests:
    found, failed = energies.get(one["object"]), {"failure": "permanent", "message": done.stderr[-300:]}
    print(json.dumps({"key": one["key"], **({"value": float(found)} if found else failed)}))
