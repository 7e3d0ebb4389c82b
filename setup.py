"""Map the folders hw, gen, host, sim_tb, bitstreams and notebooks to the packages celosia.hw, celosia.gen and so on.

The list of packages is computed: every folder below a room belongs to the wheel, so no module can be forgotten.
"""

from pathlib import Path

from setuptools import setup

ROOMS = ("hw", "gen", "host", "sim_tb", "bitstreams", "notebooks")


def packages() -> list[str]:
    found = []
    for room in ROOMS:
        folders = [Path(room), *(p for p in Path(room).rglob("*") if p.is_dir())]
        for folder in folders:
            if not any(part.startswith((".", "__pycache__")) for part in folder.parts):
                found.append("celosia." + ".".join(folder.parts))
    return sorted(found)


setup(
    packages=packages(),
    package_dir={f"celosia.{room}": room for room in ROOMS},
    package_data={"": ["*"]},
    exclude_package_data={"": ["*.pyc"]},
)
