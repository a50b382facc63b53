"""A run over HTTP: jobs are weighed as `sotune score` weighs them, none is lost, and bad input is told why."""

import errno
import json
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.serving.audit_log import AuditLog
from sotune.serving.server import find_token, prepare
from sotune.settings import ServeSettings

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def run(folder, tiny_model):
    return sotune.weigh(
        write_jsonl(folder / "train.jsonl", rows("benign", 30, 1) + rows("harmful", 4, 2)),
        safe_anchor=write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3)),
        harmful_reference=write_jsonl(folder / "harm.jsonl", rows("harmful", 12, 4)),
        model=tiny_model("llama"), out=folder / "run", dtype="float32", device="cpu", keep_fraction=0.8, threads=1,
    )  # fmt: skip


class Served:
    """A service in a thread."""

    def __init__(self, run, **settings):
        self.prepared = prepare(run.path, ServeSettings(port=0, **settings))
        self.thread = threading.Thread(target=self.prepared.run)
        self.thread.start()
        while not self.prepared.server.started:
            time.sleep(0.01)

    def ask(self, path="/score", value=None, *, body=None, token=None, **headers):
        if value is not None:
            body = json.dumps(value).encode()
        headers = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.prepared.address + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self):
        self.prepared.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def served(run, folder):
    service = Served(run, audit=str(folder / "audit.jsonl"), max_body=20_000, max_rows=20, max_chars=1_000)
    yield service
    service.stop()


def test_the_python_class_weighs_as_the_command_does(run, folder):
    new = rows("benign", 5, 7) + rows("harmful", 2, 8)
    run.score(write_jsonl(folder / "new.jsonl", new), out=folder / "scores.jsonl")
    known = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    scorer = sotune.Scorer(run)
    found = scorer.score(new)
    assert [row.id for row in found] == [row["id"] for row in known]
    assert [row.weight for row in found] == pytest.approx([row["weight"] for row in known], rel=1e-5)
    assert [row.would_keep for row in found] == [row["would_keep"] for row in known]
    assert scorer.score(new[:1])[0].weight == pytest.approx(known[0]["weight"], rel=1e-5)
    kept = run.selection.filter(run.selection["kept"])["id"].to_pylist()
    own = {row["id"]: row for row in rows("benign", 30, 1) + rows("harmful", 4, 2)}
    assert all(row.would_keep for row in scorer.score([own[id] for id in kept]))


def test_rows_that_cannot_be_used_are_named(run):
    scorer = sotune.Scorer(run)
    with pytest.raises(sotune.DataError, match="1 of 2 rows cannot be used: rows:2: "):
        scorer.score([{"prompt": "a", "response": "b"}, {"prompt": "a", "response": 3}])
    with pytest.raises(sotune.DataError, match="holds no rows"):
        scorer.score([])
    with pytest.raises(sotune.DataError, match="id 'x' occurs twice"):
        scorer.score([{"id": "x", "prompt": "a", "response": "b"}] * 2)


def test_a_job_is_weighed_and_noted_without_its_text(served, run, folder):
    new = rows("benign", 3, 17)
    status, body = served.ask(value={"rows": new})
    assert status == 200, body
    scores = json.loads(body)["scores"]
    assert [row["id"] for row in scores] == [row["id"] for row in new]
    assert [row["weight"] for row in scores] == pytest.approx(
        [r.weight for r in sotune.Scorer(run).score(new)], rel=1e-5
    )
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert "potentials.safetensors" in lines[0]["run"]
    noted = next(line for line in lines if line.get("job") == json.loads(body)["job"])
    assert noted["ids"] == [row["id"] for row in new]
    assert len(noted["row_digests"]) == noted["n_rows"] == 3
    assert "Tell me how" not in (folder / "audit.jsonl").read_text()
    assert (folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("asked", "status", "reason"), [
    ({"body": b"{"}, 400, "not JSON"),
    ({"body": b"[" * 10_000}, 400, "not JSON"),
    ({"body": b"\xff"}, 400, "not JSON"),
    ({"value": {"rows": []}}, 422, "at least one row"),
    ({"value": {"rows": ["text"]}}, 422, "each an object"),
    ({"value": [1]}, 422, "at least one row"),
    ({"value": {"rows": [{"prompt": "a", "response": "b"}] * 21}}, 413, "21 rows, over 20"),
    ({"value": {"rows": [{"prompt": "a" * 1_001, "response": "b"}]}}, 413, "rows:1 has over 1,000 characters"),
    ({"body": b" " * 20_001}, 413, "20,001 bytes, over 20,000"),
    ({"value": {"rows": [{"prompt": "a", "response": None}]}}, 422, "cannot be used"),
    ({"value": {"rows": [{"nothing": 1}]}}, 422, "nothing"),
    ({"value": {"rows": [{"prompt": "a", "response": "b"}]}, "Content_Type": "text/plain"}, 415, "application/json"),
    ({"value": {"rows": [{"prompt": "a", "response": "b"}]}, "Host": "evil.example"}, 421, "this machine alone"),
    ({"path": "/nothing"}, 404, "POST /score"),
    ({"path": "/score"}, 405, "POST /score"),
])  # fmt: skip
def test_bad_input_is_refused_with_the_reason(served, asked, status, reason):
    found, body = served.ask(**asked)
    assert (found, reason in json.loads(body)["error"]) == (status, True), body


def test_a_body_of_unknown_length_is_cut_off(served):
    host, port = served.prepared.listener.getsockname()
    with socket.create_connection((host, port), timeout=30) as connection:
        head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(30):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        assert b"413" in connection.recv(200)


def test_health_and_metrics(served):
    assert json.loads(served.ask("/health")[1])["status"] == "ok"
    served.ask(value={"rows": rows("benign", 2, 18)})
    lines = served.ask("/metrics")[1].splitlines()
    counts = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}
    assert counts['sotune_jobs_total{status="200"}'] >= 1
    assert counts["sotune_rows_total"] >= 2
    assert counts['sotune_job_seconds_bucket{le="+Inf"}'] == counts["sotune_job_seconds_count"]


def test_jobs_at_once_are_all_answered_and_a_bad_one_spoils_no_other(served, run):
    jobs = [rows("benign", 1 + number % 3, 100 + number) for number in range(60)]
    alone = sotune.Scorer(run)

    def ask(number):
        bad = number % 7 == 0
        return served.ask(value={"rows": [*jobs[number], *([{"prompt": "a"}] if bad else [])]})

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(ask, range(len(jobs))))
    assert {answers[n][0] for n in range(0, 60, 7)} == {422}
    good = [n for n in range(60) if n % 7]
    assert {answers[n][0] for n in good} == {200}
    for number in good[::10]:
        weights = [row["weight"] for row in json.loads(answers[number][1])["scores"]]
        assert weights == pytest.approx([row.weight for row in alone.score(jobs[number])], rel=1e-4)


def test_a_token_is_asked_for(run, folder, monkeypatch):
    monkeypatch.setenv("SOTUNE_TOKEN", TOKEN)
    service = Served(run, audit=str(folder / "audit-2.jsonl"))
    try:
        job = {"rows": rows("benign", 1, 19)}
        assert service.ask(value=job)[0] == 401
        assert service.ask(value=job, token=TOKEN[:-1])[0] == 401
        assert service.ask("/metrics")[0] == 401
        assert service.ask("/health")[0] == 200
        assert service.ask(value=job, token=TOKEN)[0] == 200
    finally:
        service.stop()


def test_others_are_not_served_without_a_token(monkeypatch):
    monkeypatch.delenv("SOTUNE_TOKEN", raising=False)
    assert find_token(ServeSettings()) == ""
    with pytest.raises(sotune.ConfigError, match="can be reached by others, and there is no token"):
        find_token(ServeSettings(host="0.0.0.0"))
    monkeypatch.setenv("SOTUNE_TOKEN", "short")
    with pytest.raises(sotune.ConfigError, match="is too short"):
        find_token(ServeSettings())


def test_too_many_waiting_rows_are_sent_away(run, folder):
    service = Served(run, audit=str(folder / "audit-3.jsonl"), max_waiting=1)
    try:
        job = {"rows": rows("benign", 30, 20)}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: service.ask(value=job), range(8)))
        assert {status for status, _ in answers} == {200, 503}
        assert any("waiting already" in body for _, body in answers)
    finally:
        service.stop()


def test_an_answer_that_cannot_be_noted_is_held_back(run, folder, monkeypatch):
    def full(self, job, answer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(AuditLog, "note", full)
    service = Served(run, audit=str(folder / "audit-4.jsonl"))
    try:
        status, body = service.ask(value={"rows": rows("benign", 1, 22)})
        assert status == 503
        assert "No space left on device" in json.loads(body)["error"]
    finally:
        service.stop()


def test_a_run_that_was_selected_again_is_not_served_on(run, folder, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = sotune.open_run(tmp_path / "run")
    service = Served(copy)
    try:
        copy.select(keep_fraction=0.5)
        status, body = service.ask(value={"rows": rows("benign", 1, 21)})
        assert status == 503
        assert "selected again since it was loaded" in json.loads(body)["error"]
    finally:
        service.stop()
    assert (tmp_path / "run-audit.jsonl").exists()


def test_the_command_says_where_it_would_listen_and_what_is_missing(cli, run, monkeypatch):
    monkeypatch.delenv("SOTUNE_TOKEN", raising=False)
    result = cli("serve", run.path, "--dry-run")
    assert result.exit_code == 0
    assert "127.0.0.1:8765, which asks for no token" in " ".join(result.output.split())
    assert cli("serve", run.path, "--host", "0.0.0.0").exit_code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli("serve", run.path, "--port", taken.getsockname()[1])
    assert "cannot be listened on" in " ".join(result.output.split())
