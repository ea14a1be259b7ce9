"""The CRS of most imagery, told from its geo keys without GDAL: WGS 84, NAD83, ETRS89, their UTM zones, Web Mercator.

Only keys that say one of these codes, and nothing that GDAL would not write beside it, count as plain; all others are
for GDAL to interpret. Source: OGC GeoTIFF 1.1 (19-008r4), and what GDAL writes.
"""

from __future__ import annotations

from typing import Final

GEO_DOUBLES, GEO_TEXTS = 34736, 34737  # tags in which geo keys keep their values
MODEL, RASTER, CITATION, GEOGRAPHIC, GEOGRAPHIC_CITATION, ANGLES = 1024, 1025, 1026, 2048, 2049, 2054
MAJOR_AXIS, INVERSE_FLATTENING, PROJECTED, PROJECTED_CITATION, LENGTHS = 2057, 2059, 3072, 3073, 3076
IS_PROJECTED, IS_GEOGRAPHIC, DEGREE, METRE = 1, 2, 9102, 9001  # values of MODEL, ANGLES, LENGTHS
HEADERS = (1, 1, 0), (1, 1, 1)  # of keys of GeoTIFF 1.0 and 1.1

Said = tuple[int, int | float | bytes]  # in which tag (0: the keys themselves), and the value
Keys = dict[int, tuple[Said, ...]]

WGS_84, GRS_80 = 298.257223563, 298.257222101  # inverse flattening
_DATUMS: Final = (("WGS 84", 4326, WGS_84), ("NAD83", 4269, GRS_80), ("ETRS89", 4258, GRS_80))
_ZONES: Final = (
    ("WGS 84", 32600, "N", range(1, 61)), ("WGS 84", 32700, "S", range(1, 61)), ("NAD83", 26900, "N", range(1, 24)),
    ("ETRS89", 25800, "N", range(28, 38)),
)  # fmt: skip


def _names(name: str, datum: str) -> Keys:
    citation, geographic = ((GEO_TEXTS, f"{text}|".encode()) for text in (name, datum))
    return {
        RASTER: ((0, 1), (0, 2)), CITATION: (citation,), PROJECTED_CITATION: (citation,),
        GEOGRAPHIC_CITATION: (geographic,), ANGLES: ((0, DEGREE),),
    }  # fmt: skip


def _projected(code: int, name: str, datum: str) -> Keys:
    return _names(name, datum) | {
        MODEL: ((0, IS_PROJECTED),), PROJECTED: ((0, code),), LENGTHS: ((0, METRE),),
    }  # fmt: skip


def _geographic(code: int, name: str, inverse_flattening: float) -> Keys:
    return _names(name, name) | {
        MODEL: ((0, IS_GEOGRAPHIC),), GEOGRAPHIC: ((0, code),), MAJOR_AXIS: ((GEO_DOUBLES, 6378137.0),),
        INVERSE_FLATTENING: ((GEO_DOUBLES, inverse_flattening),),
    }  # fmt: skip


#: Code -> what the keys may say.
PLAIN: Final[dict[int, Keys]] = {
    **{code: _geographic(code, datum, flattening) for datum, code, flattening in _DATUMS},
    **{
        first + zone: _projected(first + zone, f"{datum} / UTM zone {zone}{half}", datum)
        for datum, first, half, zones in _ZONES for zone in zones
    },
    3857: _projected(3857, "WGS 84 / Pseudo-Mercator", "WGS 84"),
}  # fmt: skip


def name_plain_crs(keys: tuple[int, ...], doubles: tuple[float, ...], texts: bytes) -> str | None:
    """Return ``EPSG:n`` where the keys say just that, else None.

    Parameters
    ----------
    keys, doubles, texts
        Values of the tags GeoKeyDirectory, GeoDoubleParams and GeoAsciiParams; empty where a tag is absent.
    """
    if keys[:3] not in HEADERS or keys[3:4] != (len(keys) // 4 - 1,) or len(keys) % 4:
        return None
    if texts and (texts.find(b"\0") != len(texts) - 1 or not texts.isascii()):
        return None
    said: dict[int, Said] = {}
    for key, tag, count, value in zip(*(keys[i::4][1:] for i in range(4)), strict=True):
        if tag == GEO_TEXTS:
            said[key] = tag, texts[value : value + count]
        elif count == 1 and (tag == 0 or (tag == GEO_DOUBLES and value < len(doubles))):
            said[key] = tag, doubles[value] if tag else value
        else:
            return None
    _, code = said.get(PROJECTED) or said.get(GEOGRAPHIC) or (0, 0)
    if not isinstance(code, int) or code not in PLAIN:
        return None
    allowed = PLAIN[code]
    plain = MODEL in said and all(value in allowed.get(key, ()) for key, value in said.items())
    ascending = list(said) == sorted(keys[4::4])  # and each of them once
    return f"EPSG:{code}" if plain and ascending else None
