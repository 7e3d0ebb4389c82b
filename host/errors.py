"""What can go wrong, by name."""

__all__ = ["CelosiaError", "ProgramError", "DeviceTimeout"]


class CelosiaError(RuntimeError):
    """The base of what this library raises about devices and images."""


class ProgramError(CelosiaError):
    """The accelerator stopped a program.

    Members
    -------
    code : str
        Name of the error, e.g. ``READ_WINDOW``.
    index : int
        Index of the descriptor it stopped at.
    """

    MEANING = {
        "OPCODE": "the descriptor has an unknown opcode, or an unknown code in a field",
        "SIZE": "the descriptor has a size beyond this configuration",
        "READ_WINDOW": "the descriptor reads outside its window",
        "WRITE_WINDOW": "the descriptor writes outside its window",
        "AXI_READ": "the memory answered a read with an error",
        "AXI_WRITE": "the memory answered a write with an error",
        "WATCHDOG": "nothing moved for the watchdog's time; the memory may not answer",
        "LAUNCH": "the number of tokens, a position or a slot is out of range, or lanes of a sequence do not follow one another",
        "FETCH": "the program has no END",
        "PAGE": "a position is read that has no page in its sequence's table",
        "OWNER": "a position is written whose page does not belong to its sequence",
    }

    def __init__(self, code, index):
        super().__init__(f"The accelerator stopped at descriptor {index} with {code}: "
                         f"{self.MEANING.get(code, 'unknown code')}")
        self.code, self.index = code, index


class DeviceTimeout(CelosiaError):
    """The accelerator did not finish in time."""
