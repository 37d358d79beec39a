# What is done when a run begins, and when it ends, well or not.
# Makes:    results/check.tsv                a verdict for each scan; check.cache.json beside it
#           results/config.yaml              the settings of the run
#           results/failed.tsv               if jobs failed: stage, scan, reason, log and its end
#           results/report/incomplete.html   and then what is finished, with that table
import yaml
from snakemake.logging import logger

from quicknat.cohort.findings import write_cache
from quicknat.cohort.verdicts import write_verdicts
from quicknat.files import remove_temporaries, written_whole
from quicknat.failures.table import close_run
from quicknat.failures.jobs import JobLog

FAILED, JOBS, INCOMPLETE = "results/failed.tsv", JobLog(), "results/report/incomplete.html"


def remove_half_written():
    """Remove what killed jobs have left, unless another run works here: on other outputs it may."""
    if len(list(Path(".snakemake/locks").glob("*.output.lock"))) == 1:  # this run's
        remove_temporaries("results")


onstart:
    if workflow.local_exec:  # a cluster's jobs outlive a killed Snakemake
        remove_half_written()
    write_cache(CHECKED, FINDINGS)
    write_verdicts(CHECKED, VERDICTS)
    with written_whole("results/config.yaml") as (temporary,):  # with the defaults
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    logger.addHandler(JOBS)


onsuccess:
    remove_half_written()
    close_run([], FAILED)
    Path(INCOMPLETE).unlink(missing_ok=True)
    if os.path.exists("results/report/index.html"):  # with --until it may not be wanted yet
        print(f"Report: {os.path.abspath('results/report/index.html')}", file=sys.stderr)


onerror:
    if workflow.local_exec:  # else jobs may still be saving their states
        remove_half_written()
    print(close_run(JOBS.failed, FAILED), file=sys.stderr)
    if os.path.exists(FAILED):  # a page that cannot be made changes nothing about the end
        shell(
            "quicknat report {SHEET:q} --results results {REPORT_OPTIONS:q} --failed {FAILED:q}"
            " --segmented <(printf '%s\\n' {SEGMENTED:q})"
            " --output {INCOMPLETE:q} || true"
        )
