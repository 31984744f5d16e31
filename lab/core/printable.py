"""What a program wrote, as text that is safe to show: no program may write to the terminal that shows its words."""


def printable(line: bytes, longest: int) -> str:
    """A line without its end: bytes that are not UTF-8, and letters that no terminal prints, are escaped.

    Of one with more than `longest` bytes the beginning.
    """
    text = line[:longest].rstrip(b"\r\n").decode(errors="backslashreplace").expandtabs()
    cut = " ..." if len(line) > longest else ""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text) + cut
