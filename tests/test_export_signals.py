"""Exported models that come and go leave signals able to be handled."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import vitral as vt

CLOSED = """
import gc, os, signal
import numpy as np
from vitral.export.run_openvino import compile_model
from vitral.weights.exported import runtimes
runtimes.import_openvino()
ops = __import__("openvino.opset13", fromlist=["x"])
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))

def graph():
    image = ops.parameter([2, 5], np.float32, name="image")
    weight = ops.constant(np.ones((5, 3), np.float32))
    openvino = runtimes.import_openvino()
    return openvino.Model([ops.matmul(image, weight, False, False)],
    [image])

answers = [compile_model(graph(), "fp32") for _ in range(3)]
for answer in answers:
    assert answer(np.ones((2, 5), np.float32)).tolist() == [[5, 5, 5]] * 2
del answer
while answers:
    del answers[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""


def test_a_signal_after_three_models_were_closed_in_their_order(tmp_path):
    # In a process of its own: what it is for ends the process without a word.
    source = str(Path(vt.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CLOSED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != -signal.SIGSEGV
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
