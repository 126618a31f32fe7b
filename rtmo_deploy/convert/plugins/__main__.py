"""``python -m rtmo_deploy.convert.plugins``: build the decode kernel's PTX from its source, with NVRTC 12.1."""

import sys

from rtmo_deploy.convert.plugins.kernel_build import write_kernel
from rtmo_deploy.errors import RtmoDeployError

if __name__ == "__main__":
    try:
        sys.stdout.write(f"{write_kernel()}\n")
    except RtmoDeployError as error:
        sys.exit(str(error))
