import socket

import pytest

from privacy.tee_zkml.channel import (
    ProcessEnded,
    clear,
    receive,
    send,
    send_ended,
    skip_to_clear,
)


@pytest.fixture
def pair():
    both = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield both
    for end in both:
        end.close()


@pytest.mark.parametrize("size", [1, 1 << 15, (1 << 15) + 1, 100_000])
def test_a_message_of_any_length_arrives_whole(pair, size):
    here, there = pair
    message = bytes(range(256)) * (size // 256 + 1)
    send(here, message[:size])
    assert receive(there) == message[:size]


def test_what_a_killed_process_left_is_not_taken_for_an_answer(pair):
    here, there = pair
    here.send(b"+the first half of an answer")
    send_ended(here)
    with pytest.raises(ProcessEnded):
        receive(there)


def test_a_row_that_nobody_read_does_not_reach_the_next_job(pair):
    here, there = pair
    send(here, b"[1, 2, 3]")
    there.send(b"+half an answer")
    send_ended(there)
    clear(there)
    skip_to_clear(here)
    send(here, b"[4]")
    assert receive(there) == b"[4]"
    send(there, b"{}")
    assert receive(here) == b"{}"


def test_a_closed_channel_is_the_end(pair):
    here, there = pair
    here.close()
    with pytest.raises(EOFError):
        receive(there)
