# Where the programs that rules call come from: this environment, conda's or a container's.
# Requires: with --sdm conda, `conda`; with --sdm apptainer, the setting `container`, see Dockerfile.
import shutil

from snakemake_interface_executor_plugins.settings import DeploymentMethod

# rules call the `quicknat` that belongs to this Snakemake, also when its environment is not active
if shutil.which("quicknat") is None:
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))
# envs/*.post-deploy.sh install it into the environments that conda makes
os.environ.update(QUICKNAT_SOURCE=workflow.basedir)

in_containers = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if in_containers and not config["container"]:
    raise WorkflowError(
        "configuration: 'container' is missing, and --sdm apptainer needs it; build an image from"
        " the Dockerfile and name it, such as --config container=docker://HOST/quicknat:0.1.0"
    )


container: config["container"]
