"""The command line: parses, calls, prints. Commands that talk to a daemon import no more than they need.

Exit codes: 0 done, 1 what was asked for failed, 2 bad usage or bad configuration.
"""

import click

from supervisor import __version__
from supervisor.cli.configuration import check_config, config_schema, run
from supervisor.cli.control import drill, explain, load, logs, pause, restart, resume, status, unload


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="COMMAND --help shows the options of a command and an example.",
)
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
def main() -> None:
    """Keeps an unmodified Infinity embedding server within CPU, memory and GPU memory limits."""


for command in (run, check_config, config_schema, status, load, unload, restart, logs, pause, resume, drill, explain):
    main.add_command(command)
