"""Command ``vivado`` for the command line."""

import shutil

import click

from celosia.hw.configs import config_of

from .boards import BOARDS
from .check import check
from .project import STRATEGIES, board_of, collect, files, write

__all__ = ["vivado"]


@click.command()
@click.option("--config", "config_name", default="kv260", show_default=True, help="Configuration of the accelerator.")
@click.option("--board", "board_name", default="kv260", show_default=True, help=f"Board: {', '.join(BOARDS)}.")
@click.option("--clock-mhz", type=float, help="Clock of the fabric; default: the configuration's.")
@click.option("--interconnect", type=click.Choice(["smartconnect", "direct"]), default="smartconnect", show_default=True,
              help="What lies between the accelerator and the memory ports.")
@click.option("--strategy", "strategies", multiple=True, help="Implementation strategies, tried in this order; may be repeated. "
              f"Default: {', '.join(STRATEGIES)}.")
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Folder to write into.")
@click.option("--collect", "built", metavar="PROJECT", type=click.Path(exists=True, file_okay=False),
              help="Instead: put the built PROJECT's bitstream and manifest into a folder of DIR.")
def vivado(config_name, board_name, clock_mhz, interconnect, strategies, output, built):
    """Write a Vivado project that builds the bitstream of a configuration for a board.

    The project is checked without Vivado where tclsh is installed: what is connected to what, widths, clocks, addresses.
    """
    try:
        if built:
            click.echo(f"{collect(built, output)}: bitstream, hardware description, reports and manifest")
            return
        config = config_of(config_name)
        board = board_of(board_name)
        click.echo(f"generating configuration {config_name} for {board.title}", err=True)
        found = files(config, board, clock_mhz=clock_mhz, interconnect=interconnect,
                      strategies=strategies or STRATEGIES)
        write(output, found)
        problems = check(output, board) if shutil.which("tclsh") else None
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if problems:
        raise click.ClickException("The project is not sound: " + "; ".join(problems))
    for name, text in found.items():
        click.echo(f"{output}/{name}: {len(text):,} characters")
    click.echo("checked against a recording stub of Vivado's commands; not run in Vivado" if problems is not None
               else "not checked: tclsh is not installed")
    click.echo(f"next: cd {output} && make, where Vivado is")
