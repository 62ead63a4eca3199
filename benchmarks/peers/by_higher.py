"""higher: second-order MAML as its example has it, an inner loop for each episode and a step over all of them."""

from turns import Turns


def main() -> None:
    turns = Turns()
    import higher
    import modules
    import torch
    from torch.nn import functional as F

    work = turns.work
    network = modules.module(work)
    outer = torch.optim.SGD(network.parameters(), lr=work.lr)
    inner = torch.optim.SGD(network.parameters(), lr=work.inner_lr)
    episodes = modules.episodes(work)
    while turns.wait(lambda: modules.params(network)):
        outer.zero_grad()
        for x, y, query_x, query_y in episodes:
            with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (fast, steps):
                steps.step(F.cross_entropy(fast(x), y))
                (F.cross_entropy(fast(query_x), query_y) / len(episodes)).backward()
        outer.step()


if __name__ == "__main__":
    main()
