"""Small models, and the adapter for any nn.Module."""

from collections.abc import Sequence

from seedbed.errors import InputError
from seedbed.models.model import Model
from seedbed.models.model_zoo import ModelZoo
from seedbed.models.normalisation import BatchNorm
from seedbed.models.small import Norm, WithHead, conv, mlp


def by_name(
    name: str,
    shape: Sequence[int],
    outputs: int,
    *,
    hidden: Sequence[int] = (64,),
    channels: int = 48,
    norm: Norm = "group",
) -> WithHead:
    """A small model for inputs of this shape.

    Args:
        name: mlp | linear | conv | auto: conv for images, mlp for anything else.
        norm: batch: `BatchNorm` layers, for fedbn; group: group normalisation in conv, none in mlp.
    """
    image = is_image_shape(shape)
    if name == "conv" and not image:
        raise InputError(f"model conv needs images of at least 8×8, [channels, height, width], not {tuple(shape)}")
    if name == "conv" or (name == "auto" and image):
        return conv(shape, outputs, channels=channels, norm=norm)
    return mlp(shape, outputs, hidden=() if name == "linear" else hidden, norm=norm)


def is_image_shape(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape are images that a conv can take: [channels, height, width] of 8×8 or more."""
    return len(shape) == 3 and min(shape[1:]) >= 8


__all__ = ["BatchNorm", "Model", "ModelZoo", "by_name", "conv", "is_image_shape", "mlp"]
