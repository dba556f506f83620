"""Open untrusted zip files: they are checked before a member is read."""
import os
import stat
import zipfile

from utils.common import InputError, printable

# zipfile reads other methods by unpacking a whole block at once, however large it is and whatever size the zip claims.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def one_line(text: object, max_length: int = 200) -> str:
    """Return `text`, such as the error of a library, without line breaks and control characters, cut after `max_length` characters."""
    words = printable(' '.join(str(text).split()))
    return words[:max_length] + ('...' if len(words) > max_length else '')


def open_zip(path: str, max_bytes: int, max_total: int) -> zipfile.ZipFile:
    """Open the zip at `path`.

    Raises `InputError` if the file is not a zip; if a member would be unpacked outside of the target folder, is a link, is encrypted or is
    compressed by a method other than `METHODS`; or if one member unpacks to more than `max_bytes`, or all together to more than
    `max_total`.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a named pipe would block
        raise InputError(f'{path} is not a regular file')
    try:
        archive = zipfile.ZipFile(path)
    except Exception as err:  # zipfile raises nearly any exception for a damaged zip
        raise InputError(f'{path} cannot be read as a zip: {one_line(err)}') from err
    try:
        for member in archive.infolist():
            parts = member.filename.replace('\\', '/').split('/')
            for what, holds in (('leads out of the folder', '..' in parts or parts[0] == '' or ':' in parts[0]),
                                ('is a link', stat.S_ISLNK(member.external_attr >> 16)), ('is encrypted', member.flag_bits & 1),
                                ('is not compressed with deflate: pack the files again', member.compress_type not in METHODS),
                                (f'has {member.file_size:,} bytes when unpacked, more than {max_bytes:,}', member.file_size > max_bytes)):
                if holds:
                    raise InputError(f'{path} is refused: {one_line(member.filename)} {what}')
        total = sum(member.file_size for member in archive.infolist())
        if total > max_total:
            raise InputError(f'{path} is refused: it has {total:,} bytes when unpacked, more than {max_total:,}')
    except InputError:
        archive.close()
        raise
    return archive
