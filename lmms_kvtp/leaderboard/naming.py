"""Names of rows that tell them apart."""

import json
from collections.abc import Mapping, Sequence

from lmms_kvtp.leaderboard.provenance import Provenance


def names(records: Sequence[Provenance]) -> list[str]:
    """Labels, with the settings that tell rows of one label and ratio apart."""
    found = []
    for record in records:
        same = [other for other in records if (other.label, other.keep_ratio) == (record.label, record.keep_ratio)]
        flat = [_flat(other) for other in same]
        told = [key for key in sorted(set().union(*flat)) if len({str(one.get(key)) for one in flat}) > 1]
        mine = _flat(record)
        found.append(record.label + (f" ({', '.join(f'{key}={mine.get(key)}' for key in told)})" if told else ""))
    return found


def _flat(record: Provenance) -> dict[str, str]:
    nested = {part: values for part, values in record.method.items() if isinstance(values, Mapping)}
    flat = {f"{part}.{key}": str(value) for part, values in nested.items() for key, value in values.items()}
    return flat | {"model": record.model, "frames": json.dumps(record.frames)}
