"""Remove metadata that do not affect the pixels from PNG and JPEG files, so that an intact image with broken metadata can be read."""
import struct
import zlib

PNG = b'\x89PNG\r\n\x1a\n'
# Only known chunks, since one with a damaged name may hold pixels. tRNS and PLTE affect the pixels, eXIf rotates the image.
PNG_METADATA = (b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'pHYs', b'tIME', b'gAMA', b'cHRM', b'sRGB', b'sBIT', b'bKGD', b'hIST', b'sPLT')
JPEG = b'\xff\xd8'
# Kept: APP0 (JFIF) and APP14 (Adobe), which define the colour space, and APP1 (EXIF), which rotates the image.
JPEG_METADATA = (*range(0xe2, 0xee), 0xef, 0xfe)  # APP2 to APP13, APP15, comment
JPEG_SCAN = 0xda


def without_metadata(content: bytes) -> bytes | None:
    """Return `content`, the bytes of an image file, without texts, colour profile and similar metadata.

    Returns None if nothing can be removed: another format, no such metadata, or a broken file structure.
    """
    try:
        if content.startswith(PNG):
            kept = _png(content)
        elif content.startswith(JPEG):
            kept = _jpeg(content)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return kept if kept != content else None


def _png(content):
    kept, position = [PNG], len(PNG)
    while position < len(content):
        length, = struct.unpack_from('>I', content, position)
        chunk = content[position:position + 12 + length]
        kind = chunk[4:8]
        broken_exif = kind == b'eXIf' and struct.pack('>I', zlib.crc32(chunk[4:-4])) != chunk[-4:]
        if kind not in PNG_METADATA and not broken_exif:
            kept.append(chunk)
        position += 12 + length
        if kind == b'IEND':
            break
    return b''.join(kept)


def _jpeg(content):
    kept, position = [JPEG], len(JPEG)
    while content[position] == 0xff and content[position + 1] != JPEG_SCAN:
        end = position + 2 + struct.unpack_from('>H', content, position + 2)[0]
        if content[position + 1] not in JPEG_METADATA:
            kept.append(content[position:end])
        position = end
    return b''.join([*kept, content[position:]])
