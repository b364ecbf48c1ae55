"""`python -m detector.config.schema` prints the JSON Schema of the config file, made from the section types."""

import json
import sys
from typing import Any

from detector.config.config import Config


def config_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that editors check a config file against."""
    schema = Config.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Stopframe config"}


def schema_text() -> str:
    """The schema as the repository holds it."""
    return json.dumps(config_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
