"""Intact images with broken metadata are read, damaged images are not."""
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from utils.data.image_metadata import without_metadata
from utils.data.images import read_image
from utils.data.near_duplicates import scan_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
LARGE = bytes(2 << 20)  # more than Pillow unpacks from one text


def encoded(form, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, data, crc=None):
    return struct.pack('>I', len(data)) + kind + data + (struct.pack('>I', zlib.crc32(kind + data)) if crc is None else crc)


def png(*chunks, behind=b''):
    """Build a PNG with `chunks` after its header and the chunk `behind` after its pixels."""
    plain = encoded('PNG')
    return plain[:33] + b''.join(chunks) + plain[33:-12] + behind + plain[-12:]


def jpeg(marker, data):
    """Build a JPEG with this segment after its first one, JFIF."""
    plain = encoded('JPEG')
    return plain[:20] + bytes([0xff, marker]) + struct.pack('>H', len(data) + 2) + data + plain[20:]


def exif(orientation):
    """Build EXIF data for JPEG and PNG: one entry, big-endian."""
    return b'MM\0*\0\0\0\x08\0\x01' + struct.pack('>HHIHH', 0x112, 3, 1, orientation, 0) + bytes(4)


PNGS = {
    'exif': png(chunk(b'eXIf', b'garbage')),
    'exif_checksum': png(chunk(b'eXIf', exif(6), b'oops')),
    'raw_profile': png(chunk(b'tEXt', b'Raw profile type exif\0\nexif\n 8\nnot hexadecimal')),
    'large_text': png(chunk(b'zTXt', b'a\0\0' + zlib.compress(LARGE))),
    'large_international_text': png(chunk(b'iTXt', b'XML:com.adobe.xmp\0\x01\0\0\0' + zlib.compress(LARGE))),
    'many_texts': png(*[chunk(b'zTXt', b'a\0\0' + zlib.compress(LARGE[:1000000]))] * 80),
    'text_compression': png(chunk(b'zTXt', b'a\0\x07' + zlib.compress(b'a'))),
    'corrupt_text': png(chunk(b'zTXt', b'a\0\0garbage')),
    'text_checksum': png(chunk(b'tEXt', b'a\0b', b'oops')),
    'text_behind_the_pixels': png(behind=chunk(b'zTXt', b'a\0\0' + zlib.compress(LARGE))),
    'text_checksum_behind_the_pixels': png(behind=chunk(b'tEXt', b'a\0b', b'oops')),
    'profile': png(chunk(b'iCCP', b'icc\0\0garbage')),
    'large_profile': png(chunk(b'iCCP', b'icc\0\0' + zlib.compress(LARGE))),
    'profile_compression': png(chunk(b'iCCP', b'icc\0\x07' + zlib.compress(b'a'))),
    'short_gamma': png(chunk(b'gAMA', b'\0')), 'short_resolution': png(chunk(b'pHYs', b'\0')),
    'short_colour_space': png(chunk(b'sRGB', b'')),
    'short_chromaticity': png(chunk(b'cHRM', b'\0')),
}
JPEGS = {
    'exif': jpeg(0xe1, b'Exif\0\0garbage'), 'exif_empty': jpeg(0xe1, b'Exif\0\0'),
    'exif_endless': jpeg(0xe1, b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(9)),
    'xmp': jpeg(0xe1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="\xff'),
    'profile': jpeg(0xe2, b'ICC_PROFILE\0\x01\x09garbage'), 'profile_empty': jpeg(0xe2, b'ICC_PROFILE\0'),
    'further_pictures': jpeg(0xe2, b'MPF\0MM\0*\0\0\0\x08\0\x01garbage'), 'photoshop': jpeg(0xed, b'Photoshop 3.0\x008BIM\x03\xed\x01'),
    'flashpix': jpeg(0xe2, b'FPXR\0'), 'comment': jpeg(0xfe, b''), 'private': jpeg(0xef, b'garbage'),
}
FILES = ([pytest.param(content, 'PNG', id=f'png_{name}') for name, content in PNGS.items()]
         + [pytest.param(content, 'JPEG', id=f'jpeg_{name}') for name, content in JPEGS.items()]
         + [pytest.param(encoded('WEBP', lossless=True, exif=b'Exif\0\0garbage', icc_profile=b'garbage'), 'PNG', id='webp')])


@pytest.mark.filterwarnings('ignore')  # Pillow warns about the metadata
@pytest.mark.parametrize(('content', 'form'), FILES)
def test_an_intact_image_with_broken_metadata_is_read(tmp_path, content, form):
    (tmp_path / 'a').write_bytes(content)
    (tmp_path / 'plain').write_bytes(encoded(form))
    assert read_image(tmp_path / 'a', (20, 30)).equal(read_image(tmp_path / 'plain', (20, 30)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('content', 'form'), FILES)
def test_check_data_reads_it_too(tmp_path, content, form):
    (tmp_path / 'a').write_bytes(content)
    assert scan_image(tmp_path / 'a').problem is None


@pytest.mark.parametrize('content', [png(chunk(b'eXIf', exif(6)), chunk(b'zTXt', b'a\0\0' + zlib.compress(LARGE))),
                                     jpeg(0xe1, b'Exif\0\0' + exif(6))], ids=['png', 'jpeg'])
def test_a_valid_orientation_is_applied_beside_broken_texts(tmp_path, content):
    (tmp_path / 'a').write_bytes(content)
    (tmp_path / 'plain').write_bytes(encoded('PNG' if content.startswith(b'\x89') else 'JPEG'))
    turned = read_image(tmp_path / 'plain', (20, 30)).rot90(-1, (1, 2))
    assert read_image(tmp_path / 'a', (30, 20)).equal(turned)


@pytest.mark.parametrize('broken', [PNGS['corrupt_text'], PNGS['exif'], JPEGS['exif'], JPEGS['further_pictures']])
@pytest.mark.filterwarnings('ignore')
def test_a_damaged_image_with_broken_metadata_is_refused(tmp_path, broken):
    (tmp_path / 'a').write_bytes(broken[:len(broken) * 3 // 4])
    with pytest.raises(OSError, match=r'truncated|not an image|broken'):
        read_image(tmp_path / 'a', (20, 30))


@pytest.mark.parametrize('kind', [b'iDAT', b'iHDR', b'qqqq'])
def test_a_chunk_with_a_damaged_name_is_not_metadata(tmp_path, kind):
    (tmp_path / 'a').write_bytes(encoded('PNG').replace(b'IDAT' if kind == b'qqqq' else kind.upper(), kind))
    with pytest.raises(OSError, match=r'truncated|not an image|broken'):
        read_image(tmp_path / 'a', (20, 30))


@pytest.mark.parametrize('content', [b'', b'\x89PNG\r\n\x1a\n\0', b'\xff\xd8\xff', b'\xff\xd8\xff\xe0\0', b'GIF89a', encoded('PNG'),
                                     encoded('JPEG')])
def test_nothing_to_remove(content):
    assert without_metadata(content) is None
