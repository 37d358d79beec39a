# Handlers that Snakemake calls when a run starts, succeeds or fails; not called in a module.
# Makes:    results/check.tsv                a verdict for each scan; check.cache.json beside it
#           results/config.yaml              the settings of the run
#           results/failed.tsv               if jobs failed: stage, scan, reason, log and its end
#           results/report/incomplete.html   if jobs failed: finished scans, and that table
from dataclasses import replace

import yaml
from snakemake.logging import logger

from quicknat.cohort.examine import write_cache
from quicknat.cohort.check import write_verdicts
from quicknat.failures import JobLog, close_run
from quicknat.files import remove_temporaries, written_whole
from quicknat.report.run_log import Terminal, summary
from quicknat.training.history import duration

JOBS = JobLog()
FAILED, INCOMPLETE = f"{RESULTS}/failed.tsv", f"{RESULTS}/report/incomplete.html"


def summed_up(first, logs=()):
    """Return the summary of a successful run."""
    tested = {name: PLAN.scans[name].participant for name in PLAN.test}
    return summary(RESULTS, first, tested, len(PLAN.segmented), logs)


TERMINAL = Terminal(lambda: summed_up("Nothing to be done: all results are up to date."))
quiet = workflow.is_main_process and not workflow.dryrun and len(workflow.modifier_stack) == 1
if quiet and not (workflow.output_settings.verbose or workflow.output_settings.printshellcmds):
    logger.addHandler(TERMINAL)


def with_log(job):
    """Return a failed job with its log, fetched if it is in storage."""
    if not STORAGE:
        return job
    stored = workflow.storage_registry.default_storage_provider.object(job.log.split(" (")[0])
    try:
        workflow.async_run(stored.managed_retrieve())
    except Exception:  # it never began, or the network has failed
        return job
    return replace(job, log=str(stored.local_path()), before=None)


def remove_half_written():
    """Remove files left by killed jobs, unless another run is working here on other outputs."""
    if len(list(Path(".snakemake/locks").glob("*.output.lock"))) == 1:  # this run's
        remove_temporaries(RESULTS)


onstart:
    if workflow.local_exec:  # cluster jobs outlive a killed Snakemake
        remove_half_written()
    write_cache(RUN.check, RUN.findings)
    write_verdicts(RUN.check, RUN.verdicts)
    with written_whole(f"{RESULTS}/config.yaml") as (temporary,):  # including defaults
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
    logger.addHandler(JOBS)
    if TERMINAL in logger.handlers:
        jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_norun]  # not `all`
        TERMINAL.begin([job.rule.name for job in jobs], logger.handlers)


onsuccess:
    remove_half_written()
    for folder in Path(RESULTS, "chunks").glob("*/"):
        if folder.name not in PLAN.chunks:  # split, or of another `scans_per_job`
            shutil.rmtree(folder)
    close_run([], FAILED)
    Path(INCOMPLETE).unlink(missing_ok=True)
    time_taken = duration(time.monotonic() - TERMINAL.start)
    where = (
        f"; results are in {workflow.storage_settings.default_storage_prefix}"
        if STORAGE
        else ""
    )
    print(summed_up(f"Finished in {time_taken}{where}", log), file=sys.stderr)


onerror:
    if workflow.local_exec:  # else jobs may still be saving their state
        remove_half_written()
    print(close_run([with_log(job) for job in JOBS.failed], FAILED), file=sys.stderr)
    if os.path.exists(FAILED):  # a failing page must not hide the error
        shell(
            "quicknat report {PATHS.sheet:q} --results {RESULTS:q} {REPORT_OPTIONS:q}"
            " --failed {FAILED:q} --segmented <(printf '%s\\n' {PLAN.single:q})"
            " --check <(printf '%s' {RUN.skipped_table:q})"
            " --output {INCOMPLETE:q} || true"
        )
