"""RANK and WORLD_SIZE as torchrun sets them, and as job templates leave them."""

import socket

import pytest

from maskgen.errors import MaskgenError
from maskgen.training.launch import init_world


@pytest.fixture
def variables(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_the_only_process_needs_no_port(variables):
    variables(RANK="0", WORLD_SIZE="1")
    with init_world() as alone:
        assert (alone.rank, alone.size) == (0, 1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        variables(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(held.getsockname()[1]))
        with init_world() as alone:
            assert alone.is_main


@pytest.mark.parametrize(
    ("rank", "size", "said"),
    [
        ("0", "2", "MASTER_ADDR"),
        ("2", "2", "no process"),
        ("", "1", "no process"),
        ("0", "two", "no process"),
    ],
)
def test_variables_that_make_no_group_are_a_sentence(variables, rank, size, said):
    variables(RANK=rank, WORLD_SIZE=size)
    with pytest.raises(MaskgenError, match=f"{said}.*Unset RANK and WORLD_SIZE"), init_world():
        pass
