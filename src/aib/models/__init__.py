"""The networks of the paper and their registry."""

from aib.models import cub as cub
from aib.models import fast as fast
from aib.models import vgg as vgg
from aib.models import vgg_att as vgg_att
from aib.models import vgg_cbam as vgg_cbam
from aib.models import vgg_dvib as vgg_dvib
from aib.models import vgg_gap as vgg_gap
from aib.models import vgg_pan as vgg_pan
from aib.models import vgg_small as vgg_small
from aib.models import wrn as wrn
from aib.models import wrn_abn as wrn_abn
from aib.models.registry import create_model, model_names, register

__all__ = ["create_model", "model_names", "register"]
