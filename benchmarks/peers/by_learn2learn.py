"""learn2learn: second-order MAML as its examples have it, a clone for each episode and a step over all of them."""

from turns import Turns


def main() -> None:
    turns = Turns()
    import torch
    from learn2learn.algorithms import MAML
    from modules import module, params
    from torch.nn import functional as F

    work = turns.work
    network = module(work)
    maml = MAML(network, lr=work.inner_lr, first_order=False)
    outer = torch.optim.SGD(maml.parameters(), lr=work.lr)
    arrays = [torch.as_tensor(a).flatten(0, 1) for a in (work.x, work.y, work.query_x, work.query_y)]
    episodes = list(zip(*arrays, strict=True))
    while turns.wait(lambda: params(network)):
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
