"""Real event logs decode as other tools decoded them."""

import base64
import json

import pytest

from privacy.tee.event_log import parse_event_log, replay
from privacy.tee.parse import REGISTERS

LOGS = ["CCEL_AAEL_alibabacloud", "CCEL_data_grub", "CCEL_data_ovmf"]
OTHERS = {"trustee/eventlog/CCEL_data_gcp": 21, "go-tdx-guest/ccel_data.dat": 43}


@pytest.mark.parametrize("name", LOGS)
def test_every_event_is_what_another_tool_found(vectors, name):
    folder = vectors / "trustee" / "eventlog"
    expected = json.loads((folder / f"{name}_out.json").read_bytes())
    events = parse_event_log((folder / name).read_bytes())
    assert len(events) == len(expected["uefi_event_logs"]) > 15
    for event, other in zip(events, expected["uefi_event_logs"], strict=True):
        said = event.as_dict()
        assert said["register"] == REGISTERS[other["index"]]
        assert said["type"] == other["type_name"]
        assert {"alg": "SHA-384", "digest": said["digest"]} in other["digests"]
        assert event.content == base64.b64decode(other["event"])
        assert event.is_of_content is other["digest_matches_event"]


@pytest.mark.parametrize("path", OTHERS)
def test_other_real_logs_are_read_to_their_end(vectors, path):
    events = parse_event_log((vectors / path).read_bytes())
    assert len(events) == OTHERS[path]
    values = replay(events)
    assert any(values["rtmr0"])
    assert not any(values["rtmr3"])
    assert events[-1].as_dict()["content"] == "Exit Boot Services Returned with Success"
