"""Cases that the present code fails: pattern of `class/name` → why. The fast test passes over them."""

from __future__ import annotations

from fnmatch import fnmatchcase

KNOWN = {
    "names/link to itself by name": "Path.resolve raises RuntimeError at a link to itself",
    "names/-o loop*": "the same, for the output",
    "options/benchmark size huge": "MemoryError",
    "files/* wiring image of 4 channels": "an image of any channels is taken",
    "kills/build SIGTERM *": "a folder of temporaries stays behind now and then",
    "models/unet *_channels = 0": "torch warns of empty tensors",
    "models/unet cross_attention_dim = 0": "the same",
    "models/unet conv_in_kernel = 0": "the same",
    "models/vae latent_channels = 0": "the same",
    "models/vae block_out_channels = ?0?": "the same",
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
    "pickles/--lora of complex": "taken",
    "pickles/--lora of scalars": "IndexError",
    "pickles/--lora of sparse": "RuntimeError",
    "pickles/--lora of meta": "RuntimeError",
}


def known(label: str) -> str:
    """Why a case is known to fail, or nothing."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(label, pattern)), "")
