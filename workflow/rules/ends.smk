# What is done when a run begins, and when it ends, well or not.
# First goes what a killed run has left: its lock, and half-written files.
# Makes:    results/config.yaml              the settings of the run
#           results/failed.tsv               if jobs failed: stage, scan, reason, log and its end
#           results/report/incomplete.html   and then what is finished, with that table
import yaml
from snakemake.logging import logger

from quicknat.files import written_whole
from quicknat.runs.failures import close_run
from quicknat.runs.jobs import JobLog
from quicknat.runs.leftovers import RunHold

FAILED, JOBS, INCOMPLETE = "results/failed.tsv", JobLog(), "results/report/incomplete.html"
# for as long as Snakemake lives; jobs on a cluster parse this file too
HOLD = RunHold() if workflow.is_main_process else None


onstart:
    if not workflow.local_exec:  # a cluster's jobs outlive Snakemake
        HOLD.keep_locks()
    with written_whole("results/config.yaml") as (temporary,):  # with the defaults
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    logger.addHandler(JOBS)


onsuccess:
    HOLD.end()
    close_run([], FAILED)
    Path(INCOMPLETE).unlink(missing_ok=True)
    if os.path.exists("results/report/index.html"):  # with --until it may not be wanted yet
        print(f"Report: {os.path.abspath('results/report/index.html')}", file=sys.stderr)


onerror:
    if workflow.local_exec:  # else jobs may still be saving their states
        HOLD.end()
    print(close_run(JOBS.failed, FAILED), file=sys.stderr)
    if os.path.exists(FAILED):  # a page that cannot be made changes nothing about the end
        shell(
            "quicknat report {SHEET:q} --results results {REPORT_OPTIONS:q} --failed {FAILED:q}"
            " --segmented <(printf '%s\\n' {SEGMENTED:q}) --waiting <(printf '%s\\n' {WAITING:q})"
            " --output {INCOMPLETE:q} || true"
        )
