"""Play scenes with the flows on an embedded server and print what came of them, as JSON.

A process of its own: Prefect reads its settings when it is imported, and keeps them.
"""

import json
import sys
import time
from pathlib import Path
from unittest import mock

from flowscout import Campaign
from flowscout.db import EventKind, ScheduleRecord, this_owner
from flowscout.flows import settings
from flowscout.flows.runner import prefect_server, run_rounds
from flowscout.loop import gates
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: NAME
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: score, direction: maximize}]
oracle: flow_scenes_oracle:score
proposer: {type: gflownet, steps: 4}
batch: {size: 4}
budget: {rounds: ROUNDS}
seed: 1
"""
ORACLE = "def score(objects):\n    return [float(text.count('G')) + 0.1 * text.count('A') for text in objects]\n"


def main(folder: Path) -> None:
    """Play them all in `folder`."""
    (folder / "flow_scenes_oracle.py").write_text(ORACLE)
    with prefect_server(folder / "prefect") as server:
        assert server is not None
        campaigns = {name: _campaign(folder, name, rounds) for name, rounds in (("Alone.1", 2), ("handed", 3))}
        server.wait()
        settings.set_database_url(campaigns["handed"].workbench.history.database.location)
        found = {"alone": alone(campaigns["Alone.1"]), "busy": busy(campaigns["handed"])}
        found |= {"handed": handed(campaigns["handed"]), "swept": swept(campaigns["handed"])}
    print(json.dumps(found))


def _campaign(folder: Path, name: str, rounds: int) -> Campaign:
    path = folder / f"{name}.yaml"
    path.write_text(CAMPAIGN.replace("NAME", name).replace("ROUNDS", str(rounds)))
    return Campaign.from_yaml(path, db=f"sqlite:///{folder / 'history.db'}")


def alone(campaign: Campaign) -> dict[str, object]:
    """Run all rounds of a campaign by hand, and see what Prefect shows of them."""
    from prefect.client.orchestration import get_client

    from flowscout.loop import showing

    bench = campaign.workbench
    outcomes = list(run_rounds(bench.campaign.uuid, bench.version.sha256))
    with mock.patch.object(showing, "batch_table", side_effect=RuntimeError("no table")):
        from flowscout.flows.artifacts import show

        show(bench, 1, "batch")  # is logged, and stops nothing
    with get_client(sync_client=True) as client:
        runs = [[one.name, one.tags, one.state.type.value, one.state.name] for one in client.read_flow_runs()]
        answer = client.request("POST", "/artifacts/filter", json={"limit": 100})
    artifacts = [[one[name] for name in ("key", "type", "description", "data")] for one in answer.json()]
    links = [event.detail for event in bench.history.events.read(bench.campaign.id, kinds=[EventKind.FLOW_RUN])]
    return {
        "uuid": bench.campaign.uuid, "outcomes": outcomes, "runs": runs, "artifacts": artifacts, "links": links,
        "run_ids": [one.prefect_run_id for one in bench.history.rounds.all(bench.campaign.id)],
    }  # fmt: skip


def busy(campaign: Campaign) -> dict[str, object]:
    """Start a round of a campaign that another one holds."""
    from flowscout.flows.collecting import collect_results
    from flowscout.flows.round import discovery_round

    with hold_campaign(campaign.workbench):
        return {"round": discovery_round("handed"), "collecting": collect_results("handed")}


def handed(campaign: Campaign) -> dict[str, object]:
    """Hand trainings over: one is taken up, one is not, one comes late."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flowscout.flows import runs
    from flowscout.flows import tasks as stages_of_a_round
    from flowscout.flows.round import discovery_round
    from flowscout.flows.train import train_sampler

    found: dict[str, object] = {"before_a_pool": runs.is_polled("gpu")}
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="flowscout", type="process"))
        made = {}
        for flow, name, queue in ((discovery_round, "handed", "cpu"), (train_sampler, "gpu", "gpu")):
            made[name] = client.create_deployment(
                client.create_flow(flow), name, work_pool_name="flowscout", work_queue_name=queue
            )
        found["before_a_poll"] = runs.is_polled("gpu")
        _poll("gpu")
        until = time.monotonic() + 60.0  # the server writes it down when it finds the time
        while not runs.is_polled("gpu") and time.monotonic() < until:
            time.sleep(0.2)
        found["after_a_poll"] = runs.is_polled("gpu")
    bench, taken = campaign.workbench, {}

    def scheduled_round() -> object:
        with mock.patch("flowscout.flows.round.this_deployment", return_value=made["handed"]):
            return discovery_round("handed")

    found["first"] = scheduled_round()  # at random: nothing is trained
    found["handed"] = scheduled_round()
    found["meanwhile"] = scheduled_round()
    found["parameters"] = _scheduled(made["gpu"])
    found["trained"] = train_sampler("handed", None, 2, made["handed"])
    found["resumed"] = _scheduled(made["handed"])
    found["again"] = train_sampler("handed", None, 2, made["handed"])
    found["second"] = scheduled_round()
    found["third_handed"] = scheduled_round()
    with mock.patch.object(gates, "HANDED_OVER_S", 0.0):
        found["third"] = scheduled_round()  # nobody came: it trains itself
    found["late"] = train_sampler("handed", None, 3, made["handed"])
    with mock.patch.object(stages_of_a_round, "is_polled", return_value=False):
        found["over"] = scheduled_round()
    taken = bench.history.events.read(bench.campaign.id, kinds=[EventKind.TRAINING_HANDED_OVER])
    found["events"] = [event.round for event in taken]
    kept = bench.history.events.read(bench.campaign.id, kinds=[EventKind.FLOW_RUN])
    found["links"] = [[event.round, event.detail["flow"], event.detail["stage"]] for event in kept]
    return found


def swept(campaign: Campaign) -> dict[str, object]:
    """Leave runs of the dead and of the living about, and a round that nobody is on; sweep twice."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flowscout.flows.round import discovery_round
    from flowscout.flows.takeover import takeover
    from flowscout.loop import sweeping

    bench = campaign.workbench
    host = this_owner().split("|")[0]
    owners = {"dead": f"{host}|4194304|1", "living": this_owner(), "elsewhere": "another/host|7|9"}
    with get_client(sync_client=True) as client:
        made = {}
        for name in (*owners, "young", "foreign"):
            given = {"campaign": "somebody-elses" if name == "foreign" else bench.campaign.uuid}
            made[name] = client.create_flow_run(discovery_round, parameters=given, state=Running()).id
        for name, owner in owners.items():
            detail = {"flow": "discovery-round", "run_id": str(made[name]), "stage": "round"}
            bench.history.events.add(bench.campaign.id, EventKind.FLOW_RUN, actor=owner, detail=detail)
        [deployment] = [one.id for one in client.read_deployments() if one.name == "handed"]
        for run in client.read_flow_runs():
            if run.state.is_scheduled():
                client.delete_flow_run(run.id)
        schedule = ScheduleRecord(bench.campaign.id, interval_s=3600.0, deployment_id=str(deployment))
        bench.history.schedules.set(schedule, actor="test")
        # By the server's clock, which tells whole seconds, a run may be a second younger than none.
        stuck = gates.Gate(True, "running", "round 4 is fitting")
        with mock.patch.object(gates, "look", return_value=stuck), mock.patch.object(sweeping, "STARTING_S", -2.0):
            sweeps = [takeover(), takeover("handed")]
        states = {name: client.read_flow_run(number).state.type.value for name, number in made.items()}
    abandoned = bench.history.events.read(bench.campaign.id, kinds=[EventKind.RUN_ABANDONED])
    return {
        "sweeps": sweeps, "states": states, "started": _scheduled(deployment), "uuid": bench.campaign.uuid,
        "abandoned": [[event.detail["run_id"] == str(made["dead"]), event.detail["why"]] for event in abandoned],
    }  # fmt: skip


def _poll(queue: str) -> None:
    """Ask a queue for work, as a worker does."""
    import asyncio

    from prefect.client.orchestration import get_client

    async def ask() -> None:
        async with get_client() as client:
            await client.get_scheduled_flow_runs_for_work_pool("flowscout", [queue])

    asyncio.run(ask())


def _scheduled(deployment: object) -> list[object]:
    """Return the parameters of the runs of a deployment that wait for a worker."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs()
    return [run.parameters for run in found if run.deployment_id == deployment and run.state.is_scheduled()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
