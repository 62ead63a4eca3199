"""The start for adapting in a member's or a peer's folder: the model it received, and the state it kept."""

from pathlib import Path

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.peers_folder import peer_contents
from seedbed.deployment.server_folder import node_contents
from seedbed.experiments import byzantine
from seedbed.experiments.adapt import AdaptationStart, start_of_run
from seedbed.tree import Tree


def start_of(directory: Path) -> AdaptationStart:
    """The start in a run's directory, or in a node's or a peer's folder.

    Raises:
        InputError: the directory is none of these, or training has not ended.
    """
    if (directory / "node.json").exists():
        return _start_of_member(*node_contents(directory))
    if (directory / "peer.json").exists():
        return _start_of_member(*peer_contents(directory))
    return start_of_run(directory)


def _start_of_member(agreement: Agreement, sent: Tree, kept: Tree | None) -> AdaptationStart:
    settings = agreement.settings
    own = byzantine.rule_of_algorithm(kept, settings) if kept is not None else None
    return AdaptationStart(
        agreement.learner, dict(agreement.encoding), settings.algorithm, agreement.model, settings.options,
        lambda shots: None, lambda algorithm: sent, own,
    )  # fmt: skip
