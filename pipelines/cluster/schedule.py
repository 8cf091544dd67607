"""Recurring runs of the retraining pipeline on Kubeflow Pipelines: found by name, replaced when asked again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError
from pipelines.cluster.cron import check_cron
from pipelines.cluster.server import REQUEST_SECONDS, Server, explained, quiet
from pipelines.cluster.submit import find_pipeline, upload
from pipelines.dag.profiles import Profile

__all__ = ["EXPERIMENT", "Schedule", "Schedules", "compiled"]

EXPERIMENT = "untaint"
_PAGE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """One recurring run.

    Attributes:
        name: Its name; the model's as well.
        id: The server's id.
        cron: Six fields, seconds first, in UTC unless the server's CRON_SCHEDULE_TIMEZONE says otherwise.
        enabled: False while it is paused.
        drops: Where it looks for drops.
        version: Id of the pipeline version that it runs.
    """

    name: str
    id: str
    cron: str
    enabled: bool
    drops: str
    version: str


class Schedules:
    """The recurring runs of this project on one server.

    Args:
        server: As from ``pipelines.cluster.server.connect``.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = server.client

    def all(self) -> list[Schedule]:
        """The recurring runs of the retraining pipeline, by name.

        Raises:
            ClusterError: The server does not answer or refuses.
        """
        with quiet(), explained(self._server.host):
            pipeline = self._pipeline_id()
            return sorted(
                (_schedule(run) for run in self._runs() if pipeline and _pipeline_of(run) == pipeline),
                key=lambda schedule: schedule.name,
            )

    def create(
        self,
        name: str,
        cron: str,
        parameters: Mapping[str, Any],
        package: Path,
        *,
        experiment_name: str = EXPERIMENT,
        service_account: str = "",
    ) -> Schedule:
        """Makes a recurring run, in the place of one of the same name if there is one.

        The new one is made paused, the old one deleted and the new one started: at no time do two of them run, and what
        an interruption leaves is mended by asking again.

        Args:
            name: Its name.
            cron: Six fields, seconds first.
            parameters: The pipeline's parameters.
            package: The compiled pipeline.
            experiment_name: Name of the experiment; made if it is not there.
            service_account: Service account of the pods; empty for the server's default.

        Raises:
            ConfigError: The cron is not usable, or the name is that of a recurring run of another pipeline.
            ClusterError: The server does not answer or refuses.
        """
        from pipelines.dag.retrain import PIPELINE_NAME

        cron = check_cron(cron)
        with quiet(), explained(self._server.host):
            before = [run for run in self._runs() if run.display_name == name]
            known = self._pipeline_id()
            foreign = [run for run in before if _pipeline_of(run) != known]
            if foreign:
                raise ConfigError(
                    f"schedule {name}",
                    expected="a free name, or that of a schedule of untaint",
                    found=f"a recurring run of another pipeline ({foreign[0].recurring_run_id})",
                    hint="Choose another name.",
                )
        pipeline, version, _ = upload(self._server, package, PIPELINE_NAME)
        with quiet(), explained(self._server.host):
            experiment = self._client.create_experiment(experiment_name, namespace=self._server.namespace or None)
            made = self._client.create_recurring_run(
                experiment_id=experiment.experiment_id,
                job_name=name,
                description="Retraining on new drops by untaint",
                cron_expression=cron,
                # As a text: an int64 travels as one.
                max_concurrency="1",
                no_catchup=True,
                params=dict(parameters),
                pipeline_id=pipeline,
                version_id=version,
                enabled=False,
                service_account=service_account or None,
            )
            for run in before:
                self._delete(run.recurring_run_id)
            self._client.enable_recurring_run(made.recurring_run_id)
            return _schedule(self._client.get_recurring_run(made.recurring_run_id))

    def pause(self, name: str) -> None:
        """Pauses a schedule. Raises ConfigError if there is none of that name."""
        with quiet(), explained(self._server.host):
            for schedule in self._named(name):
                self._client.disable_recurring_run(schedule.id)

    def resume(self, name: str) -> None:
        """Lets a paused schedule go on; the last time that was missed is made up for. Raises ConfigError if none."""
        with quiet(), explained(self._server.host):
            for schedule in self._named(name):
                self._client.enable_recurring_run(schedule.id)

    def delete(self, name: str) -> None:
        """Deletes a schedule; its runs stay, one at work too. Raises ConfigError if there is none of that name."""
        with quiet(), explained(self._server.host):
            for schedule in self._named(name):
                self._delete(schedule.id)

    def _delete(self, identifier: str) -> None:
        """Deletes a recurring run alone.

        Kubernetes would delete the workflows that it owns with it, a training at work among them; KFP's own client
        cannot say otherwise.
        """
        self._client.recurring_runs.recurring_run_service_delete_recurring_run(
            identifier, propagation_policy="ORPHAN", _request_timeout=REQUEST_SECONDS
        )

    def _named(self, name: str) -> list[Schedule]:
        known = self.all()
        found = [schedule for schedule in known if schedule.name == name]
        if not found:
            raise ConfigError(
                f"schedule {name}",
                expected="the name of a schedule",
                found=f"only {', '.join(s.name for s in known)}" if known else "no schedules at all",
                hint="`untaint schedule list` shows them.",
            )
        return found

    def _runs(self) -> Iterator[Any]:
        token = ""
        while True:
            page = self._client.list_recurring_runs(
                page_token=token, page_size=_PAGE, namespace=self._server.namespace or None
            )
            yield from page.recurring_runs or ()
            token = page.next_page_token or ""
            if not token:
                return

    def _pipeline_id(self) -> str | None:
        from pipelines.dag.retrain import PIPELINE_NAME

        return find_pipeline(self._server, PIPELINE_NAME)


def _schedule(run: Any) -> Schedule:
    cron = run.trigger.cron_schedule if run.trigger else None
    values = (run.runtime_config.parameters if run.runtime_config else None) or {}
    reference = run.pipeline_version_reference
    return Schedule(
        name=str(run.display_name),
        id=str(run.recurring_run_id),
        cron=str(cron.cron) if cron else "",
        enabled=run.status == "ENABLED",
        drops=str(values.get("drops", "")),
        version=str(reference.pipeline_version_id) if reference else "",
    )


def _pipeline_of(run: Any) -> str | None:
    return run.pipeline_version_reference.pipeline_id if run.pipeline_version_reference else None


@contextlib.contextmanager
def compiled(registry: str, tag: str, profile: Profile, *, control: bool = False) -> Iterator[Path]:
    """The retraining pipeline as a file, for the time of the block."""
    from pipelines.dag.retrain import compile_pipeline

    with tempfile.TemporaryDirectory(prefix="untaint-") as folder:
        path = Path(folder) / "retrain.yaml"
        compile_pipeline(path, registry, tag, profile, control=control)
        yield path
