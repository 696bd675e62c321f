"""Any ViT as a frozen backbone: a weights file of whatever publisher, or a model of timm by name.

The architecture is found from the shapes of the tensors and from what lies beside the file. What had to be assumed is stated in
``ReadViT.found``, and can be overridden.
"""

from smope_bench.methods.common.pretrained_files.any_vit.read import ReadViT, read_timm, read_vit, require_promptable
from smope_bench.methods.common.pretrained_files.any_vit.timm_models import TimmModel, timm_model

__all__ = ["ReadViT", "TimmModel", "read_timm", "read_vit", "require_promptable", "timm_model"]
