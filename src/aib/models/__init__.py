"""The networks of the paper and their registry."""

from aib.models import fast as fast
from aib.models import vgg as vgg
from aib.models import vgg_small as vgg_small
from aib.models import wrn as wrn
from aib.models.registry import create_model, model_names, register

__all__ = ["create_model", "model_names", "register"]
