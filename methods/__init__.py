"""Continual-learning methods, one file each, over the parts in ``methods.common``.

``BUILTIN`` is the lazy table of names: looking at it imports nothing.
"""

BUILTIN: dict[str, str] = {
    "smope": "methods.smope:SMoPE",
    "one_prompt": "methods.one_prompt:OnePrompt",
    "linear_probe": "methods.linear_probe:LinearProbe",
    "ncm": "methods.ncm:Ncm",
    "ridge": "methods.ridge:Ridge",
    "joint": "methods.joint:Joint",
}
