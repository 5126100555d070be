"""Sets trained agents of the paper beside two that learned nothing and never hold while an instance is open.

python tools/paper_agents_table.py agents/ agents-1/ agents-2/
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import irouter
from irouter.evaluation.policies import PolicyChoice
from irouter.training import paper_agents
from irouter.training.double_dqn import Args, q_network, weights

SCENARIO = "paper-main"
INSTANCES = 4
FIGURES = ("makespan_s", "e2e_mean_s", "e2e_p99_s")


def unlearned() -> list[PolicyChoice]:
    """`first`: the open instance of the lowest number. `freest`: the open one of the most free capacity."""
    inputs = 3 + 6 * INSTANCES
    choices = []
    for name, worth in (("first", 0.0), ("freest", 1.0)):
        network = q_network(inputs, (), INSTANCES + 1)
        with torch.no_grad():
            for tensor in network.parameters():
                tensor.zero_()
            network[0].bias[INSTANCES] = -1.0
            for instance in range(INSTANCES):
                network[0].weight[instance, 3 + 6 * instance + 4] = worth
        choices.append(paper_agents.choice(name, weights(network, Args(scenario=SCENARIO))))
    return choices


def trained(folders: list[Path]) -> list[PolicyChoice]:
    """Every agent in the folders."""
    files = {
        f"{folder.name} {variant}": paper_agents.file_of(folder, SCENARIO, variant)
        for variant in paper_agents.VARIANTS
        for folder in folders
    }
    return [paper_agents.choice(name, file.read_bytes()) for name, file in files.items() if file.is_file()]


def gain(figures: Mapping[str, Any], name: str) -> str:
    """Percent below round robin, with its interval."""
    value, low, high = (100.0 * (1.0 - ratio) for ratio in figures["ratio"][name])
    return f"{value:.1f} [{high:.1f}, {low:.1f}]"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of irouter train --agent")
    policies: list[str | PolicyChoice] = ["round_robin", *unlearned(), *trained(parser.parse_args().folders)]
    comparison = irouter.compare(SCENARIO, policies=policies)
    print("| agent | makespan, % | mean E2E, % | P99 E2E, % | held at the router, mean | preemptions |")
    print("|---|---|---|---|---|---|")
    for name, figures in comparison.policies.items():
        if name != "round_robin":
            gains = " | ".join(gain(figures, figure) for figure in FIGURES)
            print(
                f"| {name} | {gains} | {figures['router_wait_mean_s']:.1f} s | {figures['preemptions']:,} |"
            )


if __name__ == "__main__":
    main()
