"""A start that is trained, with the priors of its clients' effects in its params: how it is kept, sent and adapted.

`runs.table_start` makes one: a linear model fitted exactly (`fed_lbfgs`), and priors learned on cross-fitted scores
(`with_prior`). Nothing is left to train.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from seedbed import tree
from seedbed.algorithms.fed_eb import frozen
from seedbed.data.types import Batch
from seedbed.federated import Algorithm, Params, ServerState
from seedbed.learning.effects import Effects, Likelihood, personal, rows_of, start_prior
from seedbed.learning.empirical_bayes import Prior, effects_of
from seedbed.learning.objectives import Adapt, Predict
from seedbed.tree import Tree

PRIOR = "prior:"  # begins the names of a prior's numbers, in the params of a start
NET = "net:"  # begins the names of another model's params there


def exact_start(
    predict: Predict, effects: Mapping[str, Effects], kind: Callable[[Params], Likelihood], adapt: str | Adapt
) -> Algorithm:
    """A frozen start whose params hold a prior for each of some effects; a client takes the posterior of one of them.

    Args:
        effects: by name.
        kind: how examples follow from scores, given the params.
        adapt: the effects by name, or another way to adapt.
    """

    def init(params: Params) -> ServerState:
        blank = {name: start_prior(each, kind(params), params, 1.0) for name, each in effects.items()}
        return ServerState({**with_priors(params, blank), **tree.detach(params)}, {})

    def personalise(sent: Params, kept: Tree, support: Batch) -> Params:
        if not isinstance(adapt, str):
            return adapt(sent, support)
        chosen, prior = effects[adapt], prior_in(sent, adapt)
        posterior = kind(sent).infer(rows_of(kind(sent), chosen, predict, sent, support), prior)
        return personal(chosen, sent, *effects_of(posterior, prior), prior.noise)

    return replace(frozen(), init=init, personalise=personalise)


def with_priors(params: Params, priors: Mapping[str, Prior]) -> dict[str, Any]:
    """Params beside which these priors are kept, by the effects' names."""
    kept = {f"{PRIOR}{name}:{key}": value for name, prior in priors.items() for key, value in prior._asdict().items()}
    return {**params, **kept}


def prior_in(params: Params, name: str) -> Prior:
    """The prior of these effects that the params hold."""
    return Prior(*(params[f"{PRIOR}{name}:{key}"] for key in Prior._fields))


def with_net(params: Params, net: Params) -> dict[str, Any]:
    """Params beside which another model's are kept: clients may fine-tune that one."""
    return {**params, **{f"{NET}{name}": p for name, p in net.items()}}


def net_in(params: Params) -> dict[str, Any]:
    """The other model's params."""
    return {name.removeprefix(NET): p for name, p in params.items() if name.startswith(NET)}
