#!/usr/bin/env python3
"""Says which documents fit a JSON schema, which is one of draft 2020-12 itself.

    validate.py < '{"schema": SCHEMA, "documents": [DOCUMENT, ...]}' > '[true, false, ...]'

Needs jsonschema of PyPI. `tests/tests/schema.rs` runs it.
"""

import json
import sys

from jsonschema import Draft202012Validator

asked = json.load(sys.stdin)
Draft202012Validator.check_schema(asked["schema"])
validator = Draft202012Validator(asked["schema"])
json.dump([validator.is_valid(document) for document in asked["documents"]], sys.stdout)
