"""vs-mlrt-ov as a contestant of side_by_side.py, in VapourSynth's own environment, with its own defaults.

    python3.12 -m venv VS; VS/bin/pip install vapoursynth vapoursynth-mlrt-ov numpy
    VS/bin/python benchmarks/vapoursynth_worker.py SINGLE_FILE.onnx THREADS

SINGLE_FILE: of `export --single-file`, RGB in [0, 1] in and out. Lines in and out as of chain_worker.py; the whole
picture is one tile, and every run asks for another frame of an endless clip, because frames are kept.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time

import numpy as np
import vapoursynth as vs


def main() -> None:
    model, threads = sys.argv[1], int(sys.argv[2])
    vs.core.num_threads = threads
    print("ready", flush=True)
    numbers, clips = itertools.count(), {}
    for line in sys.stdin:
        path = line.strip()
        if path not in clips:
            with np.load(path) as stored:
                clips[path] = enlarged(stored["lr"][0] * 0.5 + 0.5, model)
        start = time.perf_counter()
        with clips[path].get_frame(next(numbers)) as frame:
            seconds = time.perf_counter() - start
            assert np.isfinite(np.asarray(frame[0])).all(), "expected a picture, got NaN or infinity"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": {"network": seconds}, "peak_mib": peak}), flush=True)


def enlarged(rgb: np.ndarray, model: str) -> vs.VideoNode:
    """An endless clip of one picture, float32 [3, H, W] in [0, 1], through the model."""
    _, height, width = rgb.shape
    blank = vs.core.std.BlankClip(format=vs.RGBS, width=width, height=height, length=100_000, keep=True)

    def filled(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(frame[plane]), rgb[plane])
        return frame

    source = blank.std.ModifyFrame(clips=blank, selector=filled)
    return vs.core.ov.Model(source, network_path=model, tilesize=[width, height])


if __name__ == "__main__":
    main()
