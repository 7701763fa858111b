"""What a process that measures its memory is given to do: a module that takes no time to import."""


def length_of_new_bytes(size: int) -> int:
    """Fill that much memory, and free it."""
    return len(bytearray(b"x") * size)
