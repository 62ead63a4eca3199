"""Small models, and the adapter for any nn.Module."""

from seedbed.models.model import Model
from seedbed.models.small import mlp

__all__ = ["Model", "mlp"]
