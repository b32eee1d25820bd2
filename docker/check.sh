#!/usr/bin/env bash
# Builds the Docker files with buildah and runs what was built: as user 1000, the root file system read-only, without
# network, with one folder mounted. Results are compared with those of this checkout.
#
#   sudo docker/check.sh [IMAGE…]       of cpu, rtx, tensorrt, jetson; none named: all
#
# Needs root, buildah, debootstrap (Debian's packages) and a .venv of `make setup`; without them it says so and ends
# with 77. Base images are pulled where they can be. Where not, Debian stands in for Python's, and Debian with CUDA's
# headers and libraries, from NVIDIA's wheels, for NVIDIA's: every step of a file runs then, but neither TensorRT nor
# another architecture is there. PASSIONSR_NULL_CUDA: a folder whose libcuda.so.1 stands in for the driver's.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON_BASE=docker.io/library/python:3.11.13-slim-bookworm
BUNDLE=tests/data/small/onnx_int8
PHOTO=demo/photos/lr/chelsea.png
OURS=.venv/bin/passionsr-trt
declare -A BASES=([tensorrt]=nvcr.io/nvidia/tensorrt:25.08-py3 [jetson]=nvcr.io/nvidia/l4t-jetpack:r36.4.0)
declare -A FILES=([cpu]=Dockerfile.cpu [rtx]=Dockerfile.rtx [tensorrt]=Dockerfile [jetson]=Dockerfile.jetson)

skip() { echo "skipped: $1" >&2; exit 77; }
fail() { echo "error: $1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || skip "not root"
for tool in buildah debootstrap unshare findmnt; do command -v $tool > /dev/null || skip "no $tool here: apt-get install buildah debootstrap"; done
[ -x $OURS ] || skip "no $OURS: make setup"
unshare --mount --net --pid --fork true 2> /dev/null || skip "this machine lets nobody make name spaces"
wanted=("$@")
[ $# -gt 0 ] || wanted=(cpu rtx tensorrt jetson)
for name in "${wanted[@]}"; do [ -n "${FILES[$name]:-}" ] || fail "$name: expected ${!FILES[*]}"; done

work=$(mktemp -d "${TMPDIR:-/tmp}/passionsr-images-XXXXXX")
bud() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }
# whatever is mounted in there, by debootstrap for one, is this machine's own: it goes first, and stays as it is
clean() {
    bud umount --all > /dev/null 2>&1 || true
    findmnt -rno TARGET | grep "^$work/" | tac | xargs -r umount -l || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT
{ bud from scratch && bud mount "$(bud containers -q)" && bud rm --all; } > /dev/null 2>&1 || skip "buildah makes no container here"

# --- bases

# A folder as an image: $1 folder, $2 name
imported() {
    local container
    container=$(bud from scratch)
    bud add -q "$container" "$1" / > /dev/null
    bud config --env PATH=/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    bud commit -q "$container" "$2" > /dev/null
    bud rm "$container" > /dev/null
}

# Debian with Python, as python:slim is; this machine's certificates go along, of a registry's mirror perhaps
debian() {
    [ -d "$work/debian" ] && return
    echo "debootstrap: Debian stands in for $PYTHON_BASE"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$work/debian" \
        http://deb.debian.org/debian > "$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; skip "debootstrap has no Debian"; }
    rm -f "$work"/debian/usr/lib/python3*/EXTERNALLY-MANAGED
    ln -s python3 "$work/debian/usr/bin/python"
    cp /etc/ssl/certs/ca-certificates.crt "$work/debian/etc/ssl/certs/"
}

python_base() {
    timeout 120 buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs pull -q "$PYTHON_BASE" \
        > /dev/null 2>&1 && return
    debian
    imported "$work/debian" "$PYTHON_BASE"
}

# Debian with what pycuda is compiled and linked against
cuda_base() {
    [ -d "$work/cuda" ] && return
    debian
    cp -a "$work/debian" "$work/cuda"
    cp /etc/resolv.conf "$work/cuda/etc/resolv.conf"
    chroot "$work/cuda" sh -ec '
        apt-get -qq update && apt-get -qq install -y --no-install-recommends g++ python3-dev
        pip -q install --target /tmp/cuda --no-deps nvidia-cuda-runtime-cu12 nvidia-curand-cu12 nvidia-cuda-profiler-api-cu12 \
            nvidia-cuda-nvcc-cu12
        mkdir -p /usr/local/cuda/include /usr/local/cuda/lib64 /usr/local/cuda/bin
        cp -r /tmp/cuda/nvidia/*/include/. /usr/local/cuda/include
        cp /tmp/cuda/nvidia/*/lib/*.so* /usr/local/cuda/lib64
        ln -s libcurand.so.10 /usr/local/cuda/lib64/libcurand.so
        ln -s libcudart.so.12 /usr/local/cuda/lib64/libcudart.so
        printf "#!/bin/sh\n" > /usr/local/cuda/bin/nvcc && chmod +x /usr/local/cuda/bin/nvcc
        rm -rf /tmp/cuda
        echo /usr/local/cuda/lib64 > /etc/ld.so.conf.d/cuda.conf
    ' > "$work/cuda.log" 2>&1 || { tail "$work/cuda.log"; skip "no headers and libraries of CUDA"; }
    local driver="${PASSIONSR_NULL_CUDA:-}/libcuda.so.1" there="$work/cuda/usr/local/cuda/lib64"
    if [ -f "$driver" ]; then
        cp "$driver" "$there/libcuda.so.1"
    else
        chroot "$work/cuda" sh -c 'echo | gcc -shared -x c - -o /usr/local/cuda/lib64/libcuda.so.1 -Wl,-soname,libcuda.so.1'
    fi
    ln -s libcuda.so.1 "$there/libcuda.so"
    chroot "$work/cuda" ldconfig
}

nvidia_base() { # $1 name of the image
    timeout 900 buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs pull -q "$1" > /dev/null 2>&1 && return
    echo "Debian with CUDA's headers stands in for $1"
    cuda_base
    imported "$work/cuda" "$1"
}

# --- one image

build() { # $1 its name
    local file=${FILES[$1]} started=$SECONDS
    case $1 in cpu | rtx) [ -n "$(bud images -q "$PYTHON_BASE" 2>/dev/null)" ] || python_base ;; *) nvidia_base "${BASES[$1]}" ;; esac
    bud bud --isolation chroot --network host --pull-never -f "docker/$file" -t "passionsr:$1" . > "$work/$1.log" 2>&1 \
        || { tail -n 30 "$work/$1.log"; fail "docker/$file cannot be built"; }
    echo "docker/$file: built in $((SECONDS - started)) s, $(bud images --format '{{.Size}}' "passionsr:$1")"
    container=$(bud from --pull-never "passionsr:$1")
    root=$(bud mount "$container")
    mkdir "$work/$1"
    cp -r $BUNDLE "$work/$1/onnx"
    mkdir "$work/$1/photos"
    cp $PHOTO "$work/$1/photos"
    chown -R 1000:1000 "$work/$1"
}

of_image() { bud inspect --format "{{$1}}" "$container"; }

# As `docker run --read-only --tmpfs /tmp --network none -v FOLDER:/work IMAGE WORDS`. $1 the image's name
inside() {
    local folder=$work/$1 user settings
    shift
    user=$(of_image .OCIv1.Config.User)
    [ "$user" = 1000 ] || fail "runs as user '$user', expected 1000"
    mapfile -t settings < <(of_image 'range .OCIv1.Config.Env}}{{println .}}{{end' | grep .)
    # shellcheck disable=SC2016
    unshare --mount --net --pid --fork sh -euc '
        root=$1 folder=$2; shift 2
        mount --bind "$root" "$root"
        mount --bind "$folder" "$root/work"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount -t tmpfs tmpfs "$root/tmp"
        mount --rbind /dev "$root/dev"
        mount -o remount,bind,ro "$root"
        exec chroot --userspec=1000:1000 "$root" env -i HOME=/home/user "$@"
    ' sh "$root" "$folder" "${settings[@]}" sh -c 'cd /work && exec entrypoint.sh "$@"' sh "$@"
}

# The same; what it says is shown where it fails
works() {
    inside "$@" > "$work/said" 2>&1 || { cat "$work/said"; fail "$*"; }
}

# doctor, where nothing can run: what it says
doctored() {
    local status=0
    inside "$1" doctor > "$work/said" 2>&1 || status=$?
    grep -q "$2" "$work/said" && [ $status -le 1 ] || { cat "$work/said"; fail "doctor says nothing of $2, status $status"; }
}

done_with() { bud umount "$container" > /dev/null; bud rm "$container" > /dev/null; }

# The manifest's engines are of one graph and coverage. $1 and $2: folders of engines
same_engines() {
    .venv/bin/python - "$1" "$2" <<'CODE' || fail "engines built inside differ from those built outside"
import sys
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle

inside, outside = (EngineBundle.load(Path(folder)) for folder in sys.argv[1:])
assert (inside.model, inside.key, inside.parts) == (outside.model, outside.key, outside.parts), "of another graph"
assert inside.coverage == outside.coverage, f"coverage {inside.coverage}, expected {outside.coverage}"
sites = [sum(getattr(one, name) for one in inside.coverage.values()) for name in ("sites_int8", "sites_quantized")]
print(f"  the same graph and coverage as outside: INT8 at {sites[0]} of {sites[1]} sites")
CODE
}

check_cpu() {
    build cpu
    works cpu onnx/ -o engines
    $OURS build-engines $BUNDLE -o "$work/cpu-outside" > /dev/null 2>&1
    same_engines "$work/cpu/engines" "$work/cpu-outside"
    works cpu infer photos -o pictures --engines engines
    $OURS infer $PHOTO -o "$work/cpu-pictures" --engines "$work/cpu-outside" > /dev/null 2>&1
    cmp "$work/cpu/pictures/$(basename $PHOTO)" "$work/cpu-pictures/$(basename $PHOTO)" || fail "another picture than outside"
    echo "  the same picture as outside"
    works cpu doctor
}

check_rtx() {
    build rtx
    works rtx onnx/ -o engines --compute-capability 8.9
    $OURS build-engines $BUNDLE -o "$work/rtx-outside" --backend tensorrt-rtx --compute-capability 8.9 > /dev/null 2>&1
    same_engines "$work/rtx/engines" "$work/rtx-outside"
    doctored rtx 'tensorrt-rtx *build: yes'
    refused rtx infer photos -o pictures --engines engines
}

# No GPU is here: one line, status 1, nothing written. $1 the image's name, then the words
refused() {
    local status=0
    inside "$@" > /dev/null 2> "$work/said" || status=$?
    [ $status = 1 ] && [ "$(wc -l < "$work/said")" = 1 ] || { cat "$work/said"; fail "expected one line and status 1, got $status"; }
    [ ! -e "$work/$1/pictures" ] || fail "pictures without a GPU"
    echo "  without a GPU: $(cat "$work/said")"
}

check_tensorrt() {
    build tensorrt
    doctored tensorrt pycuda
    refused tensorrt onnx/ -o engines
}

check_jetson() {
    build jetson
    doctored jetson pycuda
    refused jetson onnx/ -o engines
}

for name in "${wanted[@]}"; do
    "check_$name"
    done_with
done
echo "checked: ${wanted[*]}"
