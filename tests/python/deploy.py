"""Reads every file of deploy/ that is data: a mistake in its syntax is found here, not by whoever installs it."""

import json
import pathlib
import sys

import hcl2
import yaml

deploy = pathlib.Path(__file__).parents[2] / "deploy"
readers = {".tf": hcl2.load, ".yaml": yaml.safe_load, ".json": json.load}
read = 0
for path in sorted(deploy.rglob("*")):
    reader = readers.get(path.suffix)
    if reader is None:
        continue
    with path.open() as file:
        try:
            reader(file)
        except Exception as error:  # whatever the parser raises
            sys.exit(f"{path}: {error}")
    read += 1
if read < 6:
    sys.exit(f"only {read} files were read in {deploy}")
