"""A terminal that is closed under the program's feet, or knows no signs but ASCII."""

import os
import threading

from fake_lab import FakeLab
from textual.drivers._writer_thread import MAX_QUEUED_WRITES, WriterThread

from lab.tui.app import CgilabApp
from lab.tui.terminal import Output, Terminal


def test_writing_to_a_closed_terminal_never_waits() -> None:
    master, slave = os.openpty()
    writer = WriterThread(Output(os.fdopen(slave, "w", buffering=1)))
    writer.start()
    os.close(master)

    def write_much() -> None:
        for _ in range(3 * MAX_QUEUED_WRITES):
            writer.write("\x1b[2J\n")
        writer.stop()

    writing = threading.Thread(target=write_much, daemon=True)
    writing.start()
    writing.join(10.0)
    assert not writing.is_alive()


def test_a_sign_that_the_terminal_lacks_takes_one_cell() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii", errors="backslashreplace") as file:
        output = Output(file)
        output.write("|\u2586|")
        output.flush()
        assert os.read(reader, 100) == b"|?|"
    os.close(reader)


def test_the_app_draws_on_such_a_terminal() -> None:
    assert CgilabApp(FakeLab()).driver_class is Terminal
