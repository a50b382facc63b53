"""Starts one program in several processes, as torchrun would."""

import os
import subprocess
import sys

from torch.distributed import TCPStore

TIMEOUT = 600


def launch(script, *arguments, n=2):
    """Runs a Python script in n processes that work together; returns their exit statuses, outputs and errors."""
    # The store of this process picks its port itself: another program may take one that is only known to be free.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    shared |= {
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    try:
        told = [process.communicate(timeout=TIMEOUT) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], [out for out, _ in told], [err for _, err in told]
