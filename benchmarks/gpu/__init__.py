"""Stages of `benchmarks/gpu_check.sh`: tests and speed measurements on a GPU.

A stage is a function `run(stage: Stage)` that calls `stage.check(name, function)` for each check. To add a stage, write its file and
add its name to STAGES in `run.py` and to `gpu_check.sh`. The stage `fast` also runs the checks of `whole.py` and `compile.py`.
"""
