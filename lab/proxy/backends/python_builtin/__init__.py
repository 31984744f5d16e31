"""The proxy of the lab itself, on asyncio.Protocol and uvloop."""
