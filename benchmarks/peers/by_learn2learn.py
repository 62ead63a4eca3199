"""learn2learn: second-order MAML as its examples have it, a clone for each episode and a step over all of them."""

from turns import Turns


def main() -> None:
    turns = Turns()
    import modules
    import torch
    from learn2learn.algorithms import MAML
    from torch.nn import functional as F

    work = turns.work
    network = modules.module(work)
    maml = MAML(network, lr=work.inner_lr, first_order=False)
    outer = torch.optim.SGD(maml.parameters(), lr=work.lr)
    episodes = modules.episodes(work)
    while turns.wait(lambda: modules.params(network)):
        outer.zero_grad()
        for x, y, query_x, query_y in episodes:
            learner = maml.clone()
            learner.adapt(F.cross_entropy(learner(x), y))
            F.cross_entropy(learner(query_x), query_y).backward()
        for p in maml.parameters():
            p.grad.mul_(1 / len(episodes))
        outer.step()


if __name__ == "__main__":
    main()
