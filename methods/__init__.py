"""Continual-learning methods, one file each, over the parts in ``methods.common``.

``BUILTIN`` is the lazy table of names: looking at it imports nothing.
"""

BUILTIN: dict[str, str] = {
    "l2p++": "methods.l2p:L2P",
    "deep_l2p++": "methods.deep_l2p:DeepL2P",
    "dualprompt": "methods.dualprompt:DualPrompt",
    "coda_prompt": "methods.coda_prompt:CODAPrompt",
    "ovor": "methods.ovor:OVOR",
    "hide_prompt": "methods.hide_prompt:HidePrompt",
    "norga": "methods.norga:NoRGa",
    "vq_prompt": "methods.vq_prompt:VQPrompt",
    "hash_prompt": "methods.hash_prompt:HashPrompt",
    "smope": "methods.smope:SMoPE",
    "one_prompt": "methods.one_prompt:OnePrompt",
    "linear_probe": "methods.linear_probe:LinearProbe",
    "ncm": "methods.ncm:Ncm",
    "ridge": "methods.ridge:Ridge",
    "ranpac": "methods.ranpac:RanPAC",
    "joint_head": "methods.joint_head:JointHead",
    "joint": "methods.joint:Joint",
}
