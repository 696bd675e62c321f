"""Continual-learning methods, one file each, built from the parts in ``smope_bench.methods.common``."""

if __name__ != "smope_bench.methods":
    raise ImportError(
        f"{__name__!r} is smope_bench.methods now; plugins write `from smope_bench.api import …`, see docs/add-a-method.md"
    )

BUILTIN: dict[str, str] = {
    "l2p++": "smope_bench.methods.l2p:L2P",
    "deep_l2p++": "smope_bench.methods.l2p:DeepL2P",
    "dualprompt": "smope_bench.methods.dualprompt:DualPrompt",
    "coda_prompt": "smope_bench.methods.coda_prompt:CODAPrompt",
    "ovor": "smope_bench.methods.ovor:OVOR",
    "hide_prompt": "smope_bench.methods.hide_prompt:HidePrompt",
    "norga": "smope_bench.methods.norga:NoRGa",
    "vq_prompt": "smope_bench.methods.vq_prompt:VQPrompt",
    "hash_prompt": "smope_bench.methods.hash_prompt:HashPrompt",
    "smope": "smope_bench.methods.smope:SMoPE",
    "cpg": "smope_bench.methods.cpg:CPG",
    "one_prompt": "smope_bench.methods.baselines.one_prompt:OnePrompt",
    "linear_probe": "smope_bench.methods.baselines.linear_probe:LinearProbe",
    "ncm": "smope_bench.methods.baselines.ncm:Ncm",
    "ridge": "smope_bench.methods.baselines.ridge:Ridge",
    "ease": "smope_bench.methods.ease:EASE",
    "ranpac": "smope_bench.methods.ranpac:RanPAC",
    "inflora": "smope_bench.methods.inflora:InfLoRA",
    "sd_lora": "smope_bench.methods.sd_lora:SDLoRA",
    "joint_head": "smope_bench.methods.baselines.joint:JointHead",
    "joint": "smope_bench.methods.baselines.joint:Joint",
}
