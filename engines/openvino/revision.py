"""Of the rewritings; apart from them, so that what only asks for it loads no onnx-ir."""

REVISION = 8  # to be raised where the rewritings (passes/) change: engines of another revision are built again
