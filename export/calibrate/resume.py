"""What an interrupted calibration has learned so far: one safetensors file a part, beside the cache's entry."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from passionsr_trt.export.calibrate.distributed import rank
from passionsr_trt.export.quantize.calibration import write_tensors
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

STATE = "state"


@dataclass
class State:
    """How far a part is: the stages or blocks that are done, by name; the blocks that learn, in their order."""

    done: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def tensor(self) -> Tensor:
        """As letters: a safetensors file holds nothing else."""
        return torch.tensor(list(json.dumps(asdict(self)).encode()), dtype=torch.uint8, device="cpu")

    @classmethod
    def read(cls, letters: Tensor) -> State:
        return cls(**json.loads(bytes(letters.tolist())))


class Progress:
    """Learners' state after each stage or block. Without a folder nothing is kept. Of several processes one
    writes."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def restore(self, name: str, learners: nn.Module) -> State | None:
        """Load a part's learners; returns what they have behind them, or None to start anew."""
        if self.folder is None or not (self.folder / f"{name}.safetensors").is_file():
            return None
        try:
            state: dict[str, Tensor] = load_file(self.folder / f"{name}.safetensors")
            done = State.read(state.pop(STATE))
        except (SafetensorError, KeyError, ValueError, TypeError):
            return None  # damaged: it is only a saving of time
        shapes = {key: value.shape for key, value in learners.state_dict().items()}
        if {key: value.shape for key, value in state.items()} != shapes:
            return None  # written by another version
        learners.load_state_dict(state)
        return done

    def save(self, name: str, learners: nn.Module, state: State) -> None:
        """Atomic, so that an interruption here leaves the state before."""
        if self.folder is None or rank():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.tmp"
        write_tensors(learners.state_dict() | {STATE: state.tensor()}, temporary)
        temporary.replace(self.folder / f"{name}.safetensors")

    def clear(self) -> None:
        if self.folder is not None and not rank():
            shutil.rmtree(self.folder, ignore_errors=True)
