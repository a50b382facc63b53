import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the harness looks at /proc")
def test_the_service_stays_as_it_is_under_load_and_bad_requests():
    command = [sys.executable, str(SOAK), "--minutes", "1", "--rate", "3", "--every", "5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout[-1500:] + ended.stderr[-1500:]
