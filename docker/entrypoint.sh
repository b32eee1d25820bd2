#!/bin/sh
# `docker run IMAGE BUNDLE …` builds engines; any subcommand of passionsr-trt works as well.
#   BUNDLE            a folder that is there, or a path with a /; any other word is a command, known or not
#   BUNDLE alone      engines go to BUNDLE-engines, beside the bundle
#   PASSIONSR_BACKEND the backend of this image, where --backend is not given
set -eu

case "${1:-}" in
    "" | -h | --help) exec passionsr-trt build-engines --help ;;
    import-model | import-calibration | quantize | calibrate | export | build-engines | predict | infer | batch | sensitivity | compare | benchmark | serve | repository | doctor)
        exec passionsr-trt "$@" ;;
    -*) exec passionsr-trt "$@" ;;
    */*) ;;
    *) [ -e "$1" ] || exec passionsr-trt "$@" ;;
esac

bundle=$1
shift
has() {
    wanted=$1
    shift
    for word in "$@"; do
        case "$word" in "$wanted" | "$wanted"=*) return 0 ;; esac
    done
    return 1
}
has --backend "$@" || set -- "$@" --backend "${PASSIONSR_BACKEND:-openvino}"
has -o "$@" || has --output "$@" || set -- "$@" -o "${bundle%/}-engines"
exec passionsr-trt build-engines "$bundle" "$@"
