"""The stages of `benchmarks/gpu_check.sh`: what has to be right and fast on a GPU, one file a stage.

A stage is a function `run(stage: Stage)`. It calls `stage.check(name, function)` for each thing that it finds out. To add a stage, write
its file, name it in STAGES of `__main__.py` and in `gpu_check.sh`.
"""
