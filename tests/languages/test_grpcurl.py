"""grpcurl itself, which knows nothing but what reflection tells it."""

import json
import pathlib
import subprocess
import sys

import grpc
import pytest

SERVICES = {
    "orchestrator": ["OrchestratorService", "WorkerService", "EventLogService"],
    "monitor": ["EventMonitorService", "WorkerMonitorService", "MetricsService", "AlertService"],
    "host": [],
}
EACH_HAS = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
GRPCURL = pathlib.Path(sys.executable).parent / "grpcurl"


def grpcurl(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [GRPCURL, "-plaintext", "-max-time", "60", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def call(address: str, method: str, request: dict | None = None) -> dict:
    answer = grpcurl("-d", json.dumps(request or {}), address, f"multiagents.v1.{method}")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize("service", SERVICES)
def test_lists_every_service(suite, service):
    listed = grpcurl(getattr(suite, service), "list")
    assert listed.returncode == 0, listed.stderr
    ours = {f"multiagents.v1.{name}" for name in SERVICES[service]}
    assert set(listed.stdout.split()) == ours | EACH_HAS


@pytest.mark.parametrize("service", SERVICES)
def test_describes_every_service_and_method(suite, service):
    address = getattr(suite, service)
    for name in SERVICES[service]:
        methods = grpcurl(address, "list", f"multiagents.v1.{name}")
        assert methods.returncode == 0, methods.stderr
        assert methods.stdout.split()
        for method in methods.stdout.split():
            described = grpcurl(address, "describe", method)
            assert described.returncode == 0, described.stderr
            assert f"rpc {method.rsplit('.', 1)[1]}" in described.stdout


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", SERVICES)
def test_reflection_answers_in_both_versions(suite, service, version):
    with grpc.insecure_channel(getattr(suite, service)) as channel:
        method = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        )
        # ServerReflectionRequest.list_services (field 7), any text.
        answer = b"".join(method(iter([b"\x3a\x01*"]), timeout=30))
    for name in SERVICES[service]:
        assert f"multiagents.v1.{name}".encode() in answer
    assert f"grpc.reflection.{version}.ServerReflection".encode() in answer


def test_starts_a_transaction_and_follows_it_through_every_service(suite):
    started = call(
        suite.orchestrator,
        "OrchestratorService/ExecuteWorkflow",
        {"workflow": "simple_monitoring", "input": {"data": "Hello"}, "wait": "60s"},
    )
    transaction_id = started["transactionId"]
    transaction = started["transaction"]
    assert transaction["state"] in ("TRANSACTION_STATE_COMPLETED", "TRANSACTION_STATE_FAILED")
    steps = {step["name"]: step for step in transaction["steps"]}
    # A person typed a Struct and gets one back.
    assert transaction["input"] == {"struct": {"data": "Hello"}}
    assert steps["fast_step"]["result"]["struct"]["processed"] == "HELLO"
    status = call(
        suite.orchestrator, "OrchestratorService/GetStatus", {"transactionId": transaction_id}
    )
    assert status["transaction"]["state"] == transaction["state"]

    log = grpcurl("-d", "{}", suite.orchestrator, "multiagents.v1.EventLogService/ReadEvents")
    assert log.returncode == 0, log.stderr
    assert "simple_monitoring" in log.stdout and "commandCompleted" in log.stdout

    from conftest import until

    trace = until(
        "the monitor to know the transaction's end",
        lambda: (
            trace := call(
                suite.monitor,
                "EventMonitorService/GetTransactionTrace",
                {"transactionId": transaction_id},
            )
        )
        and trace.get("state") == transaction["state"]
        and trace,
    )
    assert trace["events"][0]["type"] == "EVENT_TYPE_TRANSACTION_STARTED"
    metrics = call(suite.monitor, "EventMonitorService/GetEventMetrics", {"window": "300s"})
    assert int(metrics["totalEvents"]) > 0
    workers = call(suite.monitor, "WorkerMonitorService/GetAllWorkersHealth")["workers"]
    assert {"fast_processor", "slow_processor", "flaky_processor", "cpu_intensive"} <= {
        worker["worker"] for worker in workers
    }
    assert call(suite.monitor, "MetricsService/CollectSystemMetrics")["sample"]
    assert "high_error_rate" in call(suite.monitor, "AlertService/CheckAlerts")["rules"]


@pytest.mark.parametrize("service", SERVICES)
def test_health_says_serving(suite, service):
    answer = grpcurl(getattr(suite, service), "grpc.health.v1.Health/Check")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["status"] == "SERVING"


def test_an_error_shows_its_reason_and_its_field(suite):
    answer = grpcurl(
        "-d",
        json.dumps({"workflow": "simple_monitorin"}),
        suite.orchestrator,
        "multiagents.v1.OrchestratorService/ExecuteWorkflow",
    )
    assert answer.returncode != 0
    # Told in words, since reflection knows the details' messages too.
    assert "NotFound" in answer.stderr
    assert "WORKFLOW_NOT_FOUND" in answer.stderr
    assert "simple_monitoring" in answer.stderr

    answer = grpcurl(
        "-d", "{}", suite.orchestrator, "multiagents.v1.OrchestratorService/ExecuteWorkflow"
    )
    assert "InvalidArgument" in answer.stderr
    assert "FIELD_MISSING" in answer.stderr
    assert "google.rpc.BadRequest" in answer.stderr
