#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, OpenVINO 2026.4.1 with openvino-telemetry
# 2025.2.0, which it brings, SciPy; no other package. Needs Python 3.11:
# PYTHON=python3.11 (the default). Nothing is sent from here: what the processes
# would do is left out, and they are only counted.
#
# One would have guessed: `export(format="openvino")` converts and writes, in this
# process; whoever is asked for usage data has been asked first.
#
# What happens: each export of a small network forks the whole program some
# 14 times, one child for each message of usage data that OpenVINO sends unless
# it was told not to (`opt_in_out --opt_out`) or the variable CI is "true". With
# TensorFlow in memory the forks take most of the time: 0.25 s of processor time
# for the parent and 0.4 s for the children, where the export without them takes
# 0.03 s; in a process of some GB they take seconds.
#
# Output seen:
#   three exports, processes of each: 10 or more True, CI=true: 0 0 0
#   most of the time is theirs: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0 \
    openvino==2026.4.1 openvino-telemetry==2025.2.0 scipy==1.17.1
cat > "$folder/count.py" <<'PYTHON'
import json
import multiprocessing
import resource
import sys
import time

import keras

start, started = multiprocessing.Process.start, []


def counted(process):
    started.append(process)
    process._target = None
    return start(process)


def seconds():
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(one) for one in both]
    return sum(one.ru_utime + one.ru_stime for one in used)


multiprocessing.Process.start = counted
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
found = []
for i in range(3):
    before, count = seconds(), len(started)
    path = f"{sys.argv[1]}/{i}.xml"
    model.export(path, format="openvino", verbose=False)
    time.sleep(5)  # a thread starts them, and waits for each
    found.append([len(started) - count, seconds() - before])
print(json.dumps(found))
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3 HOME="$folder"
env -u CI "$folder/venv/bin/python" "$folder/count.py" "$folder" \
    > "$folder/with.txt"
CI=true "$folder/venv/bin/python" "$folder/count.py" "$folder" \
    > "$folder/without.txt"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys

both = []
for name in ("with", "without"):
    with open(f"{sys.argv[1]}/{name}.txt") as file:
        both.append(json.loads(file.read().strip().splitlines()[-1]))
sent, quiet = both
many = all(count >= 10 for count, _ in sent)
none = [count for count, _ in quiet]
slower = sent[-1][1] > 2 * quiet[-1][1]
print("three exports, processes of each: 10 or more", many, end=", ")
print("CI=true:", *none)
print("most of the time is theirs:", slower)
sys.exit(not (many and none == [0, 0, 0] and slower))
PYTHON
