"""higher: second-order MAML as its example has it, an inner loop for each episode and a step over all of them."""

from turns import Turns


def main() -> None:
    turns = Turns()
    import higher
    import torch
    from modules import module, params
    from torch.nn import functional as F

    work = turns.work
    network = module(work)
    outer = torch.optim.SGD(network.parameters(), lr=work.lr)
    inner = torch.optim.SGD(network.parameters(), lr=work.inner_lr)
    arrays = [torch.as_tensor(a).flatten(0, 1) for a in (work.x, work.y, work.query_x, work.query_y)]
    episodes = list(zip(*arrays, strict=True))
    while turns.wait(lambda: params(network)):
        outer.zero_grad()
        for x, y, query_x, query_y in episodes:
            with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (fast, steps):
                steps.step(F.cross_entropy(fast(x), y))
                (F.cross_entropy(fast(query_x), query_y) / len(episodes)).backward()
        outer.step()


if __name__ == "__main__":
    main()
