"""Names of runs and keys of artifacts stay what they are: results that people have are found again."""

import json

from addresses import FILE, addresses


def test_runs_and_artifacts_keep_their_addresses():
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    found = addresses()
    for kind, known in expected.items():
        for name, address in known.items():
            assert found[kind][name] == address, f"{kind}: {name}"
    assert found.keys() == expected.keys()
