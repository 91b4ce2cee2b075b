"""JPEG files without their pixels: the markers that decide whether a file can be read.

ITU-T T.81, annex B: a file is a sequence of segments, each with a marker and a length. Scans of
compressed pixels follow segments of the kind SOS, and end with the next marker.
"""

import re

_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# A marker among compressed pixels; FF 00 is a pixel's byte, and FF D0 to FF D7 restart the code.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")


def is_jpeg(content: bytes) -> bool:
    """Return whether the content of a file begins as a JPEG does."""
    return content.startswith(_START)


def without_pixels(content: bytes) -> bytes | None:
    """Return a JPEG with empty scans; None for a file that is truncated or has other markers.

    Decoders accept faults among the compressed pixels, and refuse invalid markers and files that
    end too soon. So they refuse the result exactly if they refuse a content for which there is one.
    """
    pieces, start = [_START], len(_START)
    while (marker := content[start : start + 2]) != _END:
        length = content[start + 2 : start + 4]
        end = start + 2 + int.from_bytes(length)
        if marker not in _SEGMENTS or len(length) < 2 or end > len(content):
            return None
        pieces.append(content[start:end])
        if marker == _SCAN:
            found = _END_OF_SCAN.search(content, end)
            if found is None:
                return None
            end = found.start()
        start = end
    return b"".join([*pieces, _END])


# Frames of Huffman codes (baseline, extended, progressive), tables, scans, comments and metadata.
_SEGMENTS = frozenset(
    bytes([0xFF, code])
    for code in (0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
)
