"""An executor whose jobs share no disk: each runs in an empty folder, as in a Kubernetes pod."""

import os
import subprocess
import tempfile
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,  # installed here already
    init_seconds_before_status_checks=1,
)


class Executor(RemoteExecutor):
    def __post_init__(self):
        self.processes = {}

    def run_job(self, job):
        folder = Path(tempfile.mkdtemp(prefix=f"{job.name}-", dir=os.environ["ELSEWHERE"]))
        with folder.with_suffix(".log").open("w") as log:
            command = ["bash", "-c", self.format_job_exec(job)]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self.processes[folder.name] = process
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=folder.name))

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            status = self.processes[info.external_jobid].poll()
            if status is None:
                yield info
            elif status == 0:
                self.report_job_success(info)
            else:
                self.report_job_error(info)

    def cancel_jobs(self, active_jobs):
        for info in active_jobs:
            self.processes[info.external_jobid].terminate()
