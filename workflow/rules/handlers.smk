# What is done when a run begins, and when it ends, well or not. Snakemake calls these handlers in a
# workflow of its own, and not where it is used as a module.
# Makes:    results/check.tsv                a verdict for each scan; check.cache.json beside it
#           results/config.yaml              the settings of the run
#           results/failed.tsv               if jobs failed: stage, scan, reason, log and its end
#           results/report/incomplete.html   and then what is finished, with that table
import yaml
from snakemake.logging import logger

from quicknat.cohort.examine import write_cache
from quicknat.cohort.check import write_verdicts
from quicknat.failures import JobLog, close_run
from quicknat.files import remove_temporaries, written_whole

JOBS, FAILED = JobLog(), f"{RESULTS}/failed.tsv"
PAGE, INCOMPLETE = f"{RESULTS}/report/index.html", f"{RESULTS}/report/incomplete.html"


def remove_half_written():
    """Remove what killed jobs have left, unless another run works here: on other outputs it may."""
    if len(list(Path(".snakemake/locks").glob("*.output.lock"))) == 1:  # this run's
        remove_temporaries(RESULTS)


onstart:
    if workflow.local_exec:  # a cluster's jobs outlive a killed Snakemake
        remove_half_written()
    write_cache(RUN.check, RUN.findings)
    write_verdicts(RUN.check, RUN.verdicts)
    with written_whole(f"{RESULTS}/config.yaml") as (temporary,):  # with the defaults
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    logger.addHandler(JOBS)


onsuccess:
    remove_half_written()
    close_run([], FAILED)
    Path(INCOMPLETE).unlink(missing_ok=True)
    if os.path.exists(PAGE):  # with --until it may not be wanted yet
        print(f"Report: {os.path.abspath(PAGE)}", file=sys.stderr)


onerror:
    if workflow.local_exec:  # else jobs may still be saving their states
        remove_half_written()
    print(close_run(JOBS.failed, FAILED), file=sys.stderr)
    if os.path.exists(FAILED):  # a page that cannot be made changes nothing about the end
        shell(
            "quicknat report {PATHS.sheet:q} --results {RESULTS:q} {REPORT_OPTIONS:q}"
            " --failed {FAILED:q} --segmented <(printf '%s\\n' {PLAN.segmented:q})"
            " --check <(printf '%s' {RUN.skipped_table:q})"
            " --output {INCOMPLETE:q} || true"
        )
