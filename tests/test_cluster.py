"""Ray as the engine, on the cores of this machine."""

import os
import signal
import sys
import time

import pytest

from pipeline_rows import rows
from sotune.cluster import RayEngine, engine_of
from sotune.errors import ConfigError, DataError, SotuneError
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.representations import CausalLMEncoder, FrozenCausalLM, RepresentationCache, fill_cache
from sotune.settings import EngineSettings, RenderingSettings


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two cores."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sotune[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def engine(cluster):
    made = RayEngine(None, threads=1, device="cpu")
    yield made
    for worker in made._workers:
        cluster.kill(worker)


def encoder(folder):
    model = FrozenCausalLM(ModelSpec(str(folder), device="cpu"), RenderingSettings(), batch_tokens=256)
    return CausalLMEncoder(model, layer=-1, pooling="last")


def contents(cache):
    return {path.name: path.read_bytes() for path in sorted(cache.folder.rglob("*.safetensors"))}


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'sotune\[ray\]'"):
        RayEngine(None, threads=1, device="cpu")
    assert engine_of(EngineSettings(), threads=1, device="cpu") is None


def test_pieces_are_each_done_once_by_workers_that_prepare_once(engine):
    def make():
        made = os.urandom(4).hex()
        return lambda piece: (piece * piece, made)

    found = dict(engine.map(make, range(12)))
    assert {number: square for number, (square, _) in found.items()} == {n: n * n for n in range(12)}
    assert len({made for _, made in found.values()}) == 2
    assert dict(engine.each(lambda piece: -piece, [3, 4])) == {0: -3, 1: -4}


def test_an_error_of_ours_comes_back_as_itself(engine):
    def fail(piece):
        raise DataError(f"row {piece} is torn")

    with pytest.raises(DataError, match=r"^row 7 is torn$"):
        list(engine.each(fail, [7]))


def test_a_cluster_that_is_too_small_is_refused(cluster):
    with pytest.raises(ConfigError, match="no worker with 64 CPUs: it has 2 CPUs"):
        RayEngine(None, threads=64, device="cpu")
    with pytest.raises(ConfigError, match="and a GPU"):
        RayEngine(None, threads=1, device="cuda")


@pytest.mark.slow
def test_processes_that_work_at_once_fail_with_the_error_of_the_one_that_knows_why(engine):
    def gathered():
        from sotune import processes

        return processes.gather(processes.rank())

    def fail_in_the_second():
        from sotune import processes

        if processes.rank() == 1:
            raise DataError("row 7 is torn")
        processes.barrier()

    def die_in_the_second():
        from sotune import processes

        if processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        processes.barrier()

    assert engine.at_once(gathered, 2) == [0, 1]
    with pytest.raises(DataError, match=r"^row 7 is torn$"):
        engine.at_once(fail_in_the_second, 2)
    with pytest.raises(SotuneError, match="was lost 4 times"):
        engine.at_once(die_in_the_second, 2)
    with pytest.raises(ConfigError, match="room for 2 workers at once. Got 3; lower ray_train_workers"):
        engine.at_once(gathered, 3)


@pytest.mark.slow
def test_a_piece_that_kills_every_worker_is_given_up(engine):
    with pytest.raises(SotuneError, match="was lost 4 times"):
        list(engine.each(lambda piece: os.kill(os.getpid(), signal.SIGKILL), [0]))


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(engine, tiny_model, tmp_path):
    import psutil

    made = [Record.from_text(row["id"], row["prompt"], row["response"]) for row in rows("benign", 96, 1)]
    alone, shared = RepresentationCache(tmp_path / "alone"), RepresentationCache(tmp_path / "shared")
    (expected,) = fill_cache(encoder(tiny_model("llama")), made, alone, shard_rows=4)
    killed = []

    def kill_one(done, total):
        if not killed and 0 < done < total:
            workers = [p for p in psutil.process_iter(["name"]) if (p.info["name"] or "").startswith("ray::_Worker")]
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)
            time.sleep(0.5)

    filled = fill_cache(encoder(tiny_model("llama")), made, shared, shard_rows=4, engine=engine, progress=kill_one)
    (found,) = filled
    assert killed
    assert found.ids == expected.ids
    assert contents(shared) == contents(alone)
