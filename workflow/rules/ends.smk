# What is done when a run begins, and when it ends, well or not.
# Makes:    results/config.yaml   the settings of the run
#           results/failed.tsv    if jobs failed: stage, scan, reason, log and its end
from snakemake.logging import logger

from quicknat.failures import close_run
from quicknat.jobs import JobLog

FAILED, JOBS = "results/failed.tsv", JobLog()


onstart:
    write_effective_config()
    logger.addHandler(JOBS)


onsuccess:
    close_run([], FAILED)
    print(f"Report: {os.path.abspath('results/report/index.html')}", file=sys.stderr)


onerror:
    print(close_run(JOBS.failed, FAILED), file=sys.stderr)
