"""Fed-Heart-Disease: FLamby's strategies over four real hospitals, by its protocol, against its published accuracies.

du Terrail et al., "FLamby: datasets and benchmarks for cross-silo federated learning in realistic healthcare
settings", NeurIPS 2022, arXiv 2210.04620. A logistic regression 13 → 1 learns from Cleveland, Hungary,
Switzerland and Long Beach (199, 172, 30 and 85 patients) whether a patient has a heart disease: 15 rounds of
100 local steps of batch 4. The score is the mean of the accuracies on the four hospitals' own test patients
(104, 89, 16, 45), over the seeds 42 to 46.

The hyper-parameters are FLamby's (config_heart_disease.json): FedProx's μ is .01; the server's rates are 1, and for
FedAdam, FedYogi and FedAdagrad .01, .01 and .316228, with β1 = .9, β2 = .999 and τ = 1e-8, without bias correction; the
clients' rates are .001, and for these three .01, .003162 and .003162. In SCAFFOLD's paper every client counts the same;
FLamby weights them by their examples: both are here.

Band: each of these within 0.03 of FLamby's.

    python benchmarks/heart.py --root DATA
    python benchmarks/heart.py --only FedAvg Scaffold
    python benchmarks/heart.py --baselines
    python benchmarks/heart.py --seeds 42 43 44 45 46 47 48 49 50 51

The data is read from ROOT/heart_disease: processed.{cleveland,hungarian,switzerland,va}.data of the UCI
repository, https://archive.ics.uci.edu/dataset/45/heart+disease (CC BY 4.0).
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from figures import Figure, arguments, progress, report
from rich.console import Console
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.algorithms.local import local
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Params, by_examples
from seedbed.learning.objectives import supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.learning.training import Objective
from seedbed.models import Model
from seedbed.rounds import synchronous

CENTRES = ("cleveland", "hungarian", "switzerland", "va")
LR, BATCH, STEPS, ROUNDS = 0.001, 4, 100, 15
EPOCHS = 50  # of FLamby's pooled and local training, which use Adam
BAND = 0.03  # how far from FLamby's


def strategies(loss: Objective) -> dict[str, Algorithm]:
    """FLamby's, with its hyper-parameters."""
    slow, moments = sgd(LR), {"beta1": 0.9, "tau": 1e-8, "initial": 0.0}
    return {
        "FedAvg": fedavg(loss, local=slow),
        "FedProx": fedprox(loss, mu=0.01, local=slow),
        "Scaffold": scaffold(loss, local=slow),
        "Scaffold by examples": by_examples(scaffold(loss, local=slow)),
        "FedAdam": fedadam(loss, eta=0.01, beta2=0.999, local=sgd(0.01), **moments),
        "FedYogi": fedyogi(loss, eta=0.01, beta2=0.999, local=sgd(0.003162), **moments),
        "FedAdagrad": fedadagrad(loss, eta=0.316228, local=sgd(0.003162), **moments),
    }


@dataclass(frozen=True)
class Hospitals:
    """Patients of the four centres: x [M, 13] as read, y [M], which centre [M], and which are for training [M]."""

    x: Tensor
    y: Tensor
    centre: np.ndarray
    training: np.ndarray

    def scaled(self, *, pooled: bool) -> "Hospitals":
        """Standardised by the mean and (unbiased) deviation of training patients, each centre's own or all.

        Switzerland's cholesterol is 0 throughout: hence FLamby's 1e-9, which leaves it at 0.
        """
        groups = np.zeros_like(self.centre) if pooled else self.centre
        x = torch.empty_like(self.x)
        for group in np.unique(groups):
            own, fit = groups == group, (groups == group) & self.training
            x[own] = (self.x[own] - self.x[fit].mean(0)) / (self.x[fit].std(0) + 1e-9)
        return Hospitals(x, self.y, self.centre, self.training)

    def population(self) -> Population:
        """The training patients; a centre is a client."""
        use = self.training
        return Population.from_arrays(self.x[use], self.y[use], np.array(CENTRES)[self.centre[use]])

    def accuracies(self, model: Model, params: list[Params]) -> list[float]:
        """On each centre's test patients, by the params for that centre."""
        found = []
        for centre, own in enumerate(params):
            test = (self.centre == centre) & ~self.training
            right = (model.predict(own, self.x[test])[:, 0] > 0) == (self.y[test] > 0.5)
            found.append(float(right.double().mean()))
        return found


def read(folder: Path) -> Hospitals:
    """FLamby's filter, dummies and split: see DATA.md, and FLamby's datasets/fed_heart_disease/dataset.py."""
    tables = []
    for name in CENTRES:
        path = folder / f"processed.{name}.data"
        if not path.is_file():
            raise InputError(
                f"{path} is missing: name the folder that holds heart_disease/ by --root or SEEDBED_DATA, or get the "
                "file from https://archive.ics.uci.edu/dataset/45/heart+disease"
            )
        tables.append(pd.read_csv(path, header=None, na_values="?").drop(columns=[10, 11, 12]).dropna())
    y = [(table[13] > 0).to_numpy() for table in tables]
    training = []
    for labels in y:
        enough = min(labels.sum(), (~labels).sum()) > 2  # FLamby's rule; Switzerland has one healthy patient
        mine, _ = train_test_split(
            np.arange(len(labels)),
            test_size=1 - 0.66,
            train_size=0.66,
            random_state=43,
            stratify=labels if enough else None,
        )
        training.append(np.isin(np.arange(len(labels)), mine))
    whole = pd.get_dummies(pd.concat(tables).drop(columns=13), columns=[2, 6], drop_first=True)
    return Hospitals(
        torch.as_tensor(whole.to_numpy(np.float32)),
        torch.as_tensor(np.concatenate(y).astype(np.float32)),
        np.repeat(np.arange(len(CENTRES)), [len(labels) for labels in y]),
        np.concatenate(training),
    )


def binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y) for one logit: [B, 1], [B] -> [B]. FLamby has a sigmoid in the model: the same function."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], y, reduction="none")


def model_for(data: Hospitals, seed: int) -> Model:
    """With FLamby's own first weights: what PyTorch draws for nn.Linear(13, 1) right after manual_seed(seed)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(nn.Linear(data.x.shape[1], 1))


Scores = list[dict[str, list[float]]]  # for each seed, by way of training: the four centres' test accuracies


def federated(data: Hospitals, model: Model, name: str, seed: int) -> list[float]:
    """The named strategy's accuracies at the four centres."""
    algorithm = strategies(supervised(model.predict, binary_cross_entropy))[name]
    # Departure: FLamby's loader goes on across rounds where an epoch was left; ours starts an epoch each round.
    source = Sampled(data.population(), batches(BATCH, steps=STEPS), seed=seed)
    for done in synchronous(algorithm, Vectorised(source), algorithm.init(model.params), seed=seed):
        if done.number == ROUNDS:
            break
    return data.accuracies(model, [done.state.params] * len(CENTRES))


def alone(population: Population, models: list[Model]) -> list[Params]:
    """FLamby's pooled and local training: 50 epochs of Adam on a client's own data, for every seed.

    All seeds train at once, as clients of one population: client c of seed number s is number s·N + c.
    """
    n, loss = len(population), supervised(models[0].predict, binary_cross_entropy)
    engine = Vectorised(Sampled(repeated(population, len(models)), batches(BATCH, epochs=EPOCHS)))
    algorithm = replace(local(loss, local=adam(LR)), send=lambda state, client: models[client // n].params)
    next(synchronous(algorithm, engine, algorithm.init(models[0].params)))
    return [engine.memory()[client] for client in engine.population]


def repeated(population: Population, times: int) -> Population:
    """So many copies of every client, on the same rows."""
    many = population.only([*range(len(population))] * times)
    return replace(many, names=tuple(f"{name} {i}" for i, name in enumerate(many.names)))


def baselines(data: Hospitals, models: list[Model]) -> Scores:
    """Local and pooled training, without any federation."""
    own, n = data.scaled(pooled=False), len(CENTRES)
    locals_ = alone(own.population(), models)
    pooled = alone(data.scaled(pooled=True).population().pooled(), models)
    scores: Scores = []
    for s, model in enumerate(models):
        mine = locals_[s * n : (s + 1) * n]
        row = {"pooled training": own.accuracies(model, [pooled[s]] * n)}
        row |= {f"local {c}": own.accuracies(model, [params] * n) for c, params in enumerate(mine)}
        scores.append(row | {"local, each for its own": own.accuracies(model, mine)})
    return scores


PUBLISHED = {  # FLamby's mean over the seeds, and its deviation where known
    "FedAvg": 0.6850,
    "FedProx": 0.6850,
    "Scaffold": 0.6840,
    "Scaffold by examples": 0.6840,
    "FedAdam": 0.7255,
    "FedYogi": 0.7314,
    "FedAdagrad": 0.7314,
    "pooled training": 0.7353,
    "local 0": 0.7221,
    "local 1": 0.6287,
    "local 2": 0.5670,
    "local 3": 0.6366,
}
DEVIATION = {
    "FedAvg": "0.028",
    "FedProx": "0.028",
    "Scaffold": "0.028",
    "Scaffold by examples": "0.028",
    "FedAdam": "0.014",
    "FedYogi": "0.0125",
    "FedAdagrad": "0.0125",
    "pooled training": "0.003",
}
AGAIN = {
    "FedAvg": "0.6917 ± 0.028",
    "FedAdam": "0.7291 ± 0.010",
    "FedYogi": "0.7341 ± 0.011",
    "FedAdagrad": "0.7341 ± 0.011",
}


def figures(scores: Scores) -> list[Figure]:
    """Mean of centres by way of training, and FedAvg's centres one by one: averages hide them."""
    judged = strategies(lambda params, item: torch.zeros(()))
    rows = []
    for name in scores[0]:
        means = [statistics.mean(each[name]) for each in scores]
        rows.append(
            Figure(
                f"{name}, mean of centres",
                statistics.mean(means),
                statistics.stdev(means) if len(means) > 1 else None,
                published=published(name),
                at_least=round(PUBLISHED[name] - BAND, 4) if name in judged else None,
                at_most=round(PUBLISHED[name] + BAND, 4) if name in judged else None,
                digits=4,
            )
        )
    for c, centre in enumerate(CENTRES if "FedAvg" in scores[0] else ()):
        own = [each["FedAvg"][c] for each in scores]
        rows.append(Figure(f"FedAvg, {centre}", statistics.mean(own), digits=4))
    return rows


def published(name: str) -> str:
    if name not in PUBLISHED:
        return ""
    spread = f" ± {DEVIATION[name]} [1]" if name in DEVIATION else " [1]"
    return f"{PUBLISHED[name]:.4f}{spread}" + (f" · {AGAIN[name]} [2]" if name in AGAIN else "")


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--root",
        type=Path,
        default=os.environ.get("SEEDBED_DATA"),
        help="the folder that holds heart_disease/; without it, the environment's SEEDBED_DATA",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46], help="of first weights and batches"
    )
    names = list(strategies(lambda params, item: torch.zeros(())))
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help="of the strategies, only these"
    )
    parser.add_argument(
        "--baselines", action="store_true", help="also FLamby's local and pooled training (Adam, 50 epochs)"
    )
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    try:
        if settings.data_dir is None:
            raise InputError("where is the data? Name the folder that holds heart_disease/ by --root or SEEDBED_DATA")
        data = read(Path(settings.data_dir) / "heart_disease")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    models = [model_for(data, seed) for seed in settings.seeds]
    own = data.scaled(pooled=False)
    scores: Scores = [{} for _ in models]
    with progress() as bar:
        for name in settings.only:
            pairs = list(zip(scores, models, settings.seeds, strict=True))
            for row, model, seed in bar.track(pairs, description=f"{name}, seeds"):
                row[name] = federated(own, model, name, seed)
    if settings.baselines:
        with Console().status("local and pooled training, all seeds at once"):
            scores = [a | b for a, b in zip(scores, baselines(data, models), strict=True)]
    return report(
        f"Fed-Heart-Disease, accuracy, mean ± deviation over {len(settings.seeds)} seeds",
        figures(scores),
        settings=settings,
        began=began,
        notes=[
            "published: [1] FLamby's result files, seeds 42-46 (ALGORITHMS.md §4.10)",
            "[2] an independent re-run of 10 seeds (ibid.)",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
