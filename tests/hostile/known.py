"""Cases that the present code fails: pattern of `class/name` → why. The fast test passes over them."""

from __future__ import annotations

from fnmatch import fnmatchcase

KNOWN = {
    "names/link to itself by name": "Path.resolve raises RuntimeError at a link to itself",
    "names/-o loop*": "the same, for the output",
    "files/* unet is a loop": "the same, in manifest.checked_file",
    "options/compare psnr nan": "--min-psnr takes nan",
    "options/benchmark size huge": "MemoryError",
    "options/resume FIFO *": "--resume opens a FIFO",
    "bundles/engines backend list": "an unhashable backend",
    "files/* wiring image of *": "sources of any channels and stride are taken",
    "files/* wiring names alike": "two parts of one name are taken",
    "files/build weights offset *": "offsets of outside weights are not checked",
    "files/build float called INT8": "a spec with no quantized site is taken",
    "streams/* stdout closed": "sys.stdout is None",
    "kills/build SIGTERM *": "a folder of temporaries stays behind now and then",
    "models/* norm_num_groups = *": "diffusers and torch raise what they like",
    "models/* norm_eps = *": "the same",
    "models/* attention_head_dim = *": "the same, or print a warning",
    "models/* layers_per_block = *": "diffusers builds layers without an end",
    "models/* channels* = *": "torch warns of empty tensors",
    "models/unet cross_attention_dim = 0": "the same",
    "models/unet conv_in_kernel = 0": "the same",
    "models/scheduler/* num_train_timesteps true": "a boolean is taken for a number",
    "models/*.json is a FIFO": "folder_digest reads whatever there is",
    "models/*.json is /dev/zero": "the same",
    "pickles/--* is a FIFO": "torch.load opens it",
    "pickles/--* nested tuples": "torch warns of the pickle's protocol",
    "pickles/--* many frames": "the same",
    "pickles/--* a long string": "the same",
    "pickles/--text-embedding no tokens": "taken",
    "pickles/--text-embedding complex": "torch warns",
    "pickles/--text-embedding NaN": "taken",
    "pickles/--text-embedding infinite": "taken",
    "pickles/--text-embedding sparse": "RuntimeError",
    "pickles/--text-embedding meta": "NotImplementedError",
    "pickles/--lora of *": "tensors of a LoRA are not looked at before they are merged",
}


def known(label: str) -> str:
    """Why a case is known to fail, or nothing."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(label, pattern)), "")
