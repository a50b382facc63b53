"""One problem solved by two processes, each of which holds the kernels of half the rows."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from sotune.settings import WeightSettings
from sotune.transport import ALL_ROWS, CosineCost, OTProblem, ProcessShards, sinkhorn
from sotune.weights import learn_weights
from sotune.weights.objective import PushPullProblem, Reference
from sotune.weights.streaming import kernel_bytes

N_ROWS, WIDTH = 61, 12  # odd, so that the parts differ in length
CASES = {
    "mirror": {},
    "adaptive": {"cost": "adaptive"},
    "one level a row": {"epsilon": 0.01},
    "one_step": {"solver": "one_step"},
    "cccp": {"solver": "cccp"},
    "streamed": {"max_memory": 2000, "streamed_tolerance": 1e-6},
    "streamed by the larger part": {"max_memory": 9200, "streamed_tolerance": 1e-6},
    "descent": {"effective_sample_size": 0.05, "epsilon": 0.05},
}


def sets():
    generator = torch.Generator().manual_seed(0)
    rows, safe, harmful = (torch.randn(n, WIDTH, generator=generator).double() for n in (N_ROWS, 8, 30))
    return torch.cat([rows, rows[:2]]), safe + torch.eye(WIDTH)[0] * 2, harmful + torch.eye(WIDTH)[1] * 2


def solve(shards):
    """Returns what all cases give, as plain lists."""
    rows, safe, harmful = sets()
    found = {}
    for name, changes in CASES.items():
        settings = WeightSettings(**{"cost": "cosine", **changes})
        learned = learn_weights(rows, safe, harmful, settings, shards=shards)
        found[name] = torch.stack([learned.weights * len(rows), learned.push_potential, learned.push_cost]).tolist()
    return found


@pytest.mark.parametrize("n", [2, 7, 61])
def test_all_processes_decide_alike_whether_to_stream(n):
    """The last has fewer rows, or none: what it would store is counted as what the others do."""
    cost = CosineCost(torch.eye(n, 64) + 1, torch.eye(5, 64) + 1)
    mass = torch.full((n,), 1 / n)
    references = (Reference("pull", cost, 1.0),)
    problems = [
        PushPullProblem(references, epsilon=0.1, base_mass=mass, shards=ProcessShards(rank, 3)) for rank in range(3)
    ]
    assert {kernel_bytes(problem) for problem in problems} == {-(-n // 3) * 5 * 4}


def work(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    results.put((rank, solve(ProcessShards(rank, 2))))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    context = multiprocessing.get_context("spawn")
    results, path = context.Queue(), tmp_path_factory.mktemp("group") / "store"
    processes = [context.Process(target=work, args=(rank, path, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    return found


@pytest.mark.filterwarnings("ignore::sotune.errors.ConvergenceWarning")
def test_two_processes_come_to_the_same_as_one(by_two):
    """Within 1e-6 of the mean weight, and of the costs."""
    expected = solve(ALL_ROWS)

    for name in CASES:
        torch.testing.assert_close(
            torch.tensor(by_two[0][name]), torch.tensor(expected[name]), rtol=0, atol=1e-6, msg=name
        )


def test_both_processes_get_the_same_bytes(by_two):
    assert by_two[0] == by_two[1]


def test_a_process_keeps_its_own_rows_alone(monkeypatch):
    """The other process's part is missing here, so that only the first half of what a sweep finds is there."""
    monkeypatch.setattr(ProcessShards, "_gather", lambda self, mine: torch.stack([mine, torch.zeros_like(mine)]))
    from sotune.transport import Kernel, sweep

    rows, _, harmful = sets()
    kernel = Kernel(CosineCost(rows, harmful), torch.full((30,), 1 / 30), 0.1, shards=ProcessShards(0, 2))

    found = sweep([kernel], lambda start, stop, _: torch.zeros(stop - start).double())

    assert kernel._matrix is not None
    assert kernel._matrix.shape == (32, 30)
    whole = sinkhorn(
        OTProblem(CosineCost(rows, harmful), torch.full((63,), 1 / 63), torch.full((30,), 1 / 30), 0.1),
        tolerance=1.0,
        max_iters=1,
    )
    torch.testing.assert_close(found.f[0][:32], whole.f[:32])
    assert not found.f[0][32:].any()
