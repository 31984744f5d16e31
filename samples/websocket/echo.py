"""echo: answers every WebSocket message with itself. The protocol from scratch, as RFC 6455 has it.

    python echo.py PORT                       (or PORT in the environment)
    GET  /health                              200 as soon as it listens
    GET  /echo                                {"service": "echo", "pid": 4131, "language": "python"}
    GET  /echo  with Upgrade: websocket       101, and then every message comes back

A WebSocket begins as an HTTP request that asks to speak something else (RFC 9110 7.8). With 101 HTTP is over, and both
sides send frames whenever they like. A frame is two bytes at least:

    FIN . . . opcode | MASK length 7 bits | perhaps a longer length | key, if masked | payload

A message is one frame, or several of which only the last has FIN. Control frames (close, ping, pong) may come between
them. After SIGTERM each client is told 1001, "going away", and the worker exits with 0.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""A server proves that it speaks WebSocket by hashing the client's key together with this (RFC 6455 1.3)."""
MESSAGE = 16 * 1024 * 1024
"""The longest message, in bytes: whoever believes every length that is claimed runs out of memory."""
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NOT_TEXT, TOO_BIG = 1000, 1001, 1002, 1007, 1009

talking: set[asyncio.Task[None]] = set()


class ClosedError(Exception):
    """The conversation ends, with this status code."""


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message. What a server sends is never masked (RFC 6455 5.1)."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = bytes([126]) + size.to_bytes(2, "big")
    else:
        length = bytes([127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Opcode, whether its message ends with it, and payload."""
    first, second = await reader.readexactly(2)
    opcode, final, size = first & 0x0F, bool(first & 0x80), second & 0x7F
    if first & 0x70 or not second & 0x80 or (opcode >= CLOSE and (size > 125 or not final)):
        raise ClosedError(PROTOCOL_ERROR)  # a reserved bit, no mask, or a control frame that is long or in pieces
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    if size > MESSAGE:
        raise ClosedError(TOO_BIG)
    key = await reader.readexactly(4)
    return opcode, final, unmask(await reader.readexactly(size), key)


def unmask(payload: bytes, key: bytes) -> bytes:
    """Each byte XOR the byte of the key whose turn it is, all at once: as two large numbers.

    The key is no secret. It keeps a web page from choosing the bytes on the wire, and with them from writing a request
    that some old proxy in between would take for HTTP (RFC 6455 10.3).
    """
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every message back. Raises `ClosedError` at the end, `UnicodeDecodeError` for text that is none."""
    kind, message = 0, b""
    while True:
        opcode, final, payload = await read_frame(reader)
        if opcode == CLOSE:
            raise ClosedError(int.from_bytes(payload[:2], "big") or NORMAL)
        if opcode == PING:
            writer.write(frame(PONG, payload))
        elif opcode in (TEXT, BINARY, CONTINUATION):
            if (opcode == CONTINUATION) is not bool(kind):  # a new message inside another one, or the rest of none
                raise ClosedError(PROTOCOL_ERROR)
            kind, message = kind or opcode, message + payload
            if len(message) > MESSAGE:
                raise ClosedError(TOO_BIG)
            if final:
                if kind == TEXT:
                    message.decode()
                writer.write(frame(kind, message))
                kind, message = 0, b""
        elif opcode != PONG:
            raise ClosedError(PROTOCOL_ERROR)
        await writer.drain()  # a client that does not read is not sent more


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak WebSocket until one side closes; say so with the other's own code, as the handshake of closing asks."""
    talking.add(task := asyncio.current_task())
    code = GOING_AWAY
    try:
        await echo(reader, writer)
    except ClosedError as closed:
        code = closed.args[0]
    except UnicodeDecodeError:
        code = NOT_TEXT
    finally:
        talking.discard(task)
        writer.write(frame(CLOSE, code.to_bytes(2, "big")))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: requests, then perhaps a conversation."""
    with contextlib.closing(writer), contextlib.suppress(ConnectionError, EOFError, asyncio.CancelledError):
        while True:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in lines)}
            path = line.split(" ")[1].partition("?")[0]
            if path == "/echo" and fields.get("upgrade", "").lower() == "websocket":
                proof = hashlib.sha1(fields.get("sec-websocket-key", "").encode() + GUID).digest()
                switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                writer.write(f"{switch}Sec-WebSocket-Accept: {base64.b64encode(proof).decode()}\r\n\r\n".encode())
                await converse(reader, writer)
                return
            status = "200 OK" if path in ("/echo", "/health") else "404 Not Found"
            body = json.dumps({"service": "echo", "pid": os.getpid(), "language": "python"}).encode() + b"\n"
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)


async def main() -> None:
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ["PORT"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1024 * 1024)
    await stop.wait()
    server.close()
    for task in talking:
        task.cancel()
    await asyncio.sleep(0.1)  # what they are told goes out


if __name__ == "__main__":
    asyncio.run(main())
