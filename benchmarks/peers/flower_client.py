"""A client of Flower's, as actors import it."""

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from modules import batches, module, train
from torch import nn
from turns import Work, read

app = ClientApp()


@cache
def made(path: str) -> tuple[nn.Module, Work]:
    """The network and the data, once in each actor."""
    work = read(path)
    return module(work), work


@cache
def data(path: str, client: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(made(path)[1], client)


@app.train()
def one_round(message: Message, context: Context) -> Message:
    """Local SGD from what was sent."""
    path = str(message.content["config"]["work"])
    network, work = made(path)
    steps = data(path, int(context.node_config["partition-id"]))
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = train(network, steps, work.lr)
    metrics = MetricRecord({"loss": loss, "num-examples": sum(len(y) for _, y in steps)})
    return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)
