"""What an engine bundle tells of its engines: how many sites run in their format, why each part has it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Coverage:
    """sites: that run INT8, or FP8 where that is the part's format / that the spec quantizes; macs: their share of
    all Conv+Linear MACs of the part.

    conversions: layers that do nothing but quantize, dequantize or cast, by the ONNX nodes that they come from.
    bytes_moved: read and written by all kernels (0: the backend does not tell, or sizes are not fixed).
    attention_fused: attentions that are one kernel, of `attention` in the part (0: the backend does not tell).
    activation_bytes: what the part's tensors take at once for a 512×512 image (0: the backend does not tell).
    """

    sites_int8: int
    sites_quantized: int
    macs_share: float
    kernels: dict[str, int] = field(default_factory=dict)
    bytes_moved: int = 0
    float_sites: list[str] = field(default_factory=list)
    conversions: list[str] = field(default_factory=list)
    attention_fused: int = 0
    attention: int = 0
    activation_bytes: int = 0
    sites_fp8: int = 0

    @property
    def sites_running(self) -> int:
        """Sites that run in the part's own format."""
        return self.sites_int8 + self.sites_fp8

    def line(self, part: str) -> str:
        if not self.sites_quantized:
            return f"{part:<12} float, {sum(self.kernels.values())} kernels"
        sites = f"{self.sites_running}/{self.sites_quantized}"
        label, share = "FP8" if self.sites_fp8 else "INT8", f"{self.macs_share:.1%} of MACs"
        moved = f", {self.bytes_moved / 1e6:.0f} MB moved" if self.bytes_moved else ""
        kernels = sum(self.kernels.values())
        only = f", {len(self.conversions)} of them only convert" if self.conversions else ""
        fused = f", attention fused {self.attention_fused}/{self.attention}" if self.attention else ""
        return f"{part:<12} {label} sites {sites}, {share}, {kernels} kernels{moved}{only}{fused}"


@dataclass(frozen=True)
class Choice:
    """Why each part is of its format. by: `measured` or `predicted`; gpu: on or for which; seconds: of one run,
    part → format → seconds.
    """

    by: str
    gpu: str
    seconds: dict[str, dict[str, float]]
