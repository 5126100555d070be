"""A routing policy in a process of its own, for docs/external-policies.md: the fewest tokens still to process.

    irouter compare conversation --policies "round_robin,external:python examples/external_policy.py"
"""

import json
import os
import socket
from typing import Any


def choose(instances: list[dict[str, Any]]) -> int:
    """The number of the instance for the request; ties go to the lowest number."""

    def tokens(instance: dict[str, Any]) -> float:
        return float(instance["queued_prefill_tokens"] + instance["remaining_output_tokens"])

    return int(min(instances, key=tokens)["instance"])


with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["IROUTER_POLICY_SOCKET"])
    with connection.makefile("rw", encoding="utf-8") as lines:
        for line in lines:  # ends when the run closes the connection
            message = json.loads(line)
            if message["type"] == "hello":
                answer = {"protocol": 1}
            else:
                answer = {"instance": choose(message["instances"])}
            print(json.dumps(answer), file=lines, flush=True)
