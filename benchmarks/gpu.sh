#!/usr/bin/env bash
# All that needs a GPU, in at most nine minutes: first token, pruners, layer pruning, batches of one and of many videos,
# memory against frames, and the tests marked `gpu`.
#
#     benchmarks/gpu.sh [FOLDER]            results in FOLDER, benchmarks/results/gpu unless told
#     benchmarks/gpu.sh --smoke FOLDER      the same steps on a CPU, at tiny sizes, to see that each of them runs
#
# Each step has a limit of time and a log; one that fails or runs out of time leaves the others alone. At the end FOLDER
# holds results.json, with the seconds and the exit code of each step (124: out of time), and results.md, their tables.
# The exit code is that of the first step that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
smoke=
if [ "${1:-}" = --smoke ]; then
    smoke=yes
    shift
fi
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python}
mkdir -p "$out"
: > "$out/steps.tsv"
failed=0

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 begin=$SECONDS code
    shift 2
    timeout -k 5 "$seconds" "$@" > "$out/$name.txt" 2> "$out/$name.log"
    code=$?
    printf '%s\t%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - begin))" "$*" >> "$out/steps.tsv"
    echo "$name: exit code $code after $((SECONDS - begin)) s of $seconds"
    if [ "$code" != 0 ]; then
        tail -n 3 "$out/$name.log" "$out/$name.txt"
        [ "$failed" != 0 ] || failed=$code
    fi
}

if [ -n "$smoke" ]; then
    device=(--device cpu)
    model=(--model tiny "${device[@]}")
    step first_token 240 "$python" benchmarks/first_token.py "${model[@]}" --frames 4 --encoders shared \
        --pruners prumerge --ratios 0.2 --rounds 1 --output "$out/first_token.json"
    step pruners 240 "$python" benchmarks/pruners.py random prumerge --row "${device[@]}" --frames 16 --repeats 1
    step layer_pruning 240 "$python" benchmarks/layer_pruning.py "${device[@]}" --rounds 1 --processes 1 --layers 4 \
        --heads 2 --positions 400 --question 20
    step batches 240 "$python" benchmarks/batches.py "${model[@]}" --frames 4 --questions 2 --sizes 1 2 --rounds 1 \
        --tokens 2 --output "$out/batches.json"
    step memory 240 "$python" benchmarks/first_token.py "${model[@]}" --frames 2 --encoders shared --pruners random \
        --ratios 0.2 --rounds 1 --output "$out/memory.json"
    step tests 240 "$python" -m pytest -q --collect-only -m gpu tests/contracts/test_allocators.py
else
    device=(--device cuda)
    model=(--model llava-video-7b --dtype bfloat16 "${device[@]}")
    step first_token 150 "$python" benchmarks/first_token.py "${model[@]}" --encoders shared base-224 --rounds 3 \
        --output "$out/first_token.json"
    step pruners 70 "$python" benchmarks/pruners.py --row "${device[@]}"
    step layer_pruning 75 "$python" benchmarks/layer_pruning.py "${device[@]}" --rounds 3 --processes 1 --layers 28 \
        --heads 28 --positions 8192
    step batches 110 "$python" benchmarks/batches.py "${model[@]}" --rounds 3 --minutes 1.2 \
        --output "$out/batches.json"
    step memory 60 "$python" benchmarks/first_token.py "${model[@]}" --frames 512 --encoders shared --pruners prumerge \
        --ratios 0.05 --rounds 1 --output "$out/memory.json"
    step tests 70 "$python" -m pytest -q -m gpu tests/contracts tests/run tests/cost
fi

"$python" - "$out" <<'END'
import json
import pathlib
import sys

import torch

out = pathlib.Path(sys.argv[1])
steps = [line.split("\t") for line in (out / "steps.tsv").read_text().splitlines()]
machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
held = {"machine": machine, "torch": torch.__version__, "steps": []}
lines = [f"{machine}, torch {torch.__version__}", "", "| step | exit code | seconds |", "|---|---|---|"]
for name, code, seconds, command in steps:
    text, path = (out / f"{name}.txt").read_text(), out / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else text.splitlines()
    held["steps"].append(
        {"name": name, "exit_code": int(code), "seconds": int(seconds), "command": command, "found": found}
    )
    lines.append(f"| {name} | {code} | {seconds} |")
for name, _, _, command in steps:
    lines += ["", f"## {name}", "", f"`{command}`", "", (out / f"{name}.txt").read_text().rstrip()]
(out / "results.json").write_text(json.dumps(held, indent=1) + "\n")
(out / "results.md").write_text("\n".join(lines) + "\n")
END
exit "$failed"
