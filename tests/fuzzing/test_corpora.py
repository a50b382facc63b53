"""Every seed, and every input that once broke something, ends in a result or in one error, and soon."""

import time

import fuzz_targets
import pytest
from fuzz_targets import CORPUS, MODULES, find_target

KEPT = sorted(CORPUS.glob("*/*"))


@pytest.fixture(scope="module", autouse=True)
def _cleaned():
    yield
    fuzz_targets.clean_up()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem[:6]}")
def test_what_once_broke_a_reader_is_read_or_refused(path):
    target, started = find_target(path.parent.name), time.process_time()
    target.tried(path.read_bytes())
    assert time.process_time() - started < 30


@pytest.mark.parametrize("name", MODULES)
def test_the_seeds_of_each_target_are_read_or_refused(name):
    target = find_target(name)
    seeds = target.seeds()
    refused = [target.tried(seed) for seed in seeds[:: 1 + len(seeds) // 24]]
    assert not all(refused), f"{name} reads none of what it begins with"
    target.tried(b"")


def test_a_find_names_a_target_that_there_is():
    assert {path.parent.name for path in KEPT} <= MODULES.keys()
