"""A routing policy in a process of its own, for docs/external-policies.md: the fewest tokens still to process.

irouter compare conversation --policies "round_robin,external:python examples/external_policy.py"
"""

import json
import os
import socket
from typing import Any


def answer(message: dict[str, Any]) -> dict[str, int]:
    """What to say to a message; among equal instances the first, which has the lowest number."""
    if message["type"] == "hello":
        return {"protocol": 1}

    def tokens(instance: dict[str, Any]) -> float:
        return float(instance["queued_prefill_tokens"] + instance["remaining_output_tokens"])

    return {"instance": min(message["instances"], key=tokens)["instance"]}


with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["IROUTER_POLICY_SOCKET"])
    with connection.makefile("rw", encoding="utf-8") as lines:
        for line in lines:  # ends when the run closes the connection
            print(json.dumps(answer(json.loads(line))), file=lines, flush=True)
