"""Decimal numbers in a text to float64, many at once and bit for bit as `float` reads them.

A number of at most 19 digits is m * 10^k with a whole m < 2^64. The extended precision of x86 holds m exactly, and
10^|k| for |k| <= 27, so one division or multiplication rounds the true value once, to 64 bits. Rounding that to the 53
bits of a double is right as well, unless the 64 bits lie exactly between two doubles; those (one in 2048), and whatever
is written in another form, are read one at a time. Where there is no such precision all are: slower, and the same.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from numpy.typing import NDArray

PADDING = 24
"""Bytes that must precede the first number: so many digits are looked at."""

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]
_Words = NDArray[np.uint64]

_AT_ONCE = 1 << 14  # numbers whose intermediate results stay in the cache
_MAX_DIGITS = 19
_MAX_POWER = 27
_HAS_EXTENDED = np.finfo(np.longdouble).nmant == 63 and sys.byteorder == "little"

_MINUS, _PLUS, _DOT, _ZERO, _E = b"-+.0e"


_POWERS = np.array([10**k for k in range(_MAX_DIGITS + 1)], dtype=np.uint64)
_LONG_POWERS = np.cumprod(np.array([1] + [10] * _MAX_POWER, dtype=np.longdouble))
_ALL_BITS = (1 << 64) - 1
# Masks that keep what belongs to a number of 0 to 24 digits in each of the three words of eight characters before its
# end, the nearest first. The first character is a word's lowest byte, so the last ones are its highest.
_KEPT = np.array(
    [
        [_ALL_BITS << 8 * (8 - min(max(digits - behind, 0), 8)) & _ALL_BITS for digits in range(PADDING + 1)]
        for behind in (0, 8, 16)
    ],
    dtype=np.uint64,
)
_ZEROS = np.uint64(0x3030303030303030)
_HIGH_BITS = np.uint64(0x8080808080808080)
_TO_HIGH_BIT = np.uint64(0x7676767676767676)  # makes 10 and more in any byte reach its high bit
_EVERY_OTHER_PAIR = np.uint64(0x000000FF000000FF)
_UPPER_PAIRS = np.uint64(100 + (1_000_000 << 32))
_LOWER_PAIRS = np.uint64(1 + (10_000 << 32))
_TEN, _8_BITS, _16_BITS, _32_BITS = (np.uint64(number) for number in (10, 8, 16, 32))
_BEYOND_DOUBLE, _HALFWAY = np.uint64(0x7FF), np.uint64(0x400)


def words_of(text: Bytes) -> NDArray[np.uint64]:
    """The eight bytes from every place on, as numbers: a view."""
    return np.ndarray((len(text) - 7,), dtype="<u8", buffer=text.data, strides=(1,))


def parse_numbers(text: Bytes, starts: Positions, ends: Positions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The numbers in `text[start:end]` for all pairs, at which `PADDING <= start <= end < len(text)`.

    Returns:
        The values (N,), NaN for what is no number of JSON; and whether each is written as a whole number, which what
        is none is not.
    """
    values = np.empty(len(starts))
    whole = np.empty(len(starts), dtype=bool)
    for first in range(0, len(starts), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        values[part], whole[part] = _parse(text, starts[part], ends[part])
    return values, whole


def _parse(text: Bytes, starts: Positions, ends: Positions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    negative = text[starts] == _MINUS
    first = starts + negative
    last, exponent, has_exponent, simple = _exponents(text, first, ends)
    dot = _dots(text, first, last)
    has_dot = dot < last
    n_whole, n_fraction = dot - first, np.where(has_dot, last - dot - 1, 0)

    in_whole, _, is_plain = _digits(text, dot, n_whole)
    simple &= is_plain & (n_whole >= 1) & ~((n_whole > 1) & (text[first] == _ZERO))
    in_fraction, leading, is_plain = _digits(text, last, n_fraction)
    simple &= is_plain & (n_fraction >= has_dot)
    # Zeros before the first other digit cost nothing.
    simple &= np.where(in_whole == 0, leading < 1000, n_whole + n_fraction <= _MAX_DIGITS) & (n_whole <= _MAX_DIGITS)
    power = n_fraction - exponent
    simple &= abs(power) <= _MAX_POWER

    digits = in_whole * _POWERS[np.minimum(n_fraction, _MAX_DIGITS)] + in_fraction
    values, rounded_once = _scaled(digits, np.where(simple, power, 0))
    whole = simple & ~has_dot & ~has_exponent
    if negative.any():
        # The whole number -0 has no sign, the fraction -0.0 has.
        values = np.where(negative & ~(whole & (digits == 0)), -values, values)
    for index in np.flatnonzero(~(simple & rounded_once)):
        values[index], whole[index] = _parse_one(text[starts[index] : ends[index]].tobytes())
    return values, whole


def _exponents(
    text: Bytes, first: Positions, ends: Positions
) -> tuple[Positions, Positions, NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the digits before an exponent end, the exponent, whether there is one, and whether it is understood.

    Python writes at least two digits: 1.5e-07. Three are rare enough to be read one at a time.
    """
    found = (text[ends - 4] == _E) & (ends - first > 4)
    understood = np.ones(len(first), dtype=bool)
    if not found.any():
        return ends, np.zeros_like(ends), found, understood
    sign, tens, units = (text[ends - back] for back in (3, 2, 1))
    size = 10 * (tens.astype(np.int64) - _ZERO) + (units.astype(np.int64) - _ZERO)
    exponent = np.where(found, np.where(sign == _MINUS, -size, size), 0)
    understood = ~found | (((sign == _MINUS) | (sign == _PLUS)) & _is_digit(tens) & _is_digit(units))
    return np.where(found, ends - 4, ends), exponent, found, understood


def _dots(text: Bytes, first: Positions, last: Positions) -> Positions:
    """Where the decimal point is, `last` where there is none or it comes after more than eight digits."""
    dot = last.copy()
    for place in range(1, 9):
        here = np.minimum(first + place, last)
        dot = np.where((text[np.minimum(here, len(text) - 1)] == _DOT) & (dot == last), here, dot)
        if ((dot < last) | (here == last)).all():
            break
    return dot


def _is_digit(characters: Bytes) -> NDArray[np.bool_]:
    return (characters >= _ZERO) & (characters <= _ZERO + 9)


def _digits(text: Bytes, ends: Positions, counts: Positions) -> tuple[_Words, _Words, NDArray[np.bool_]]:
    """The number that the last `counts` characters before `ends` make, modulo 2^64; and its digits beyond the 16th.

    And whether they are digits and no more than 24.
    """
    words = words_of(text)
    plain = counts <= PADDING
    shown = np.minimum(counts, PADDING)
    value: _Words = np.zeros(len(ends), dtype=np.uint64)
    high = value
    most = counts.max(initial=0)
    for number, behind in enumerate((0, 8, 16)):
        if behind and most <= behind:
            break
        # Other characters become zeros, and digits their values.
        word = (words[ends - (behind + 8)] ^ _ZEROS) & _KEPT[number][shown]
        plain &= ((word | (word + _TO_HIGH_BIT)) & _HIGH_BITS) == 0
        high = _eight_digits(word)
        value = value + high * _POWERS[behind] if behind else high
    return value, high if most > 16 else np.zeros_like(high), plain


def _eight_digits(word: _Words) -> _Words:
    """Eight digits, the first in the lowest byte, as a number: pairs, then fours, then all (D. Lemire, simdjson)."""
    pairs = word * _TEN + (word >> _8_BITS)
    upper = (pairs & _EVERY_OTHER_PAIR) * _UPPER_PAIRS
    return (upper + ((pairs >> _16_BITS) & _EVERY_OTHER_PAIR) * _LOWER_PAIRS) >> _32_BITS


def _scaled(digits: _Words, power: Positions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """`digits` / 10^`power`, and whether that is certain to be the nearest double."""
    if not _HAS_EXTENDED:
        return np.zeros(len(digits)), np.zeros(len(digits), dtype=bool)
    extended = digits.astype(np.longdouble) / _LONG_POWERS[np.maximum(power, 0)]
    if (power < 0).any():
        # Of the two factors one is 1, so only one operation rounds.
        extended *= _LONG_POWERS[np.maximum(-power, 0)]
    significand = extended.view(np.uint64).reshape(-1, extended.itemsize // 8)[:, 0]
    certain = (significand & _BEYOND_DOUBLE) != _HALFWAY
    return extended.astype(np.float64), certain


def _parse_one(token: bytes) -> tuple[float, bool]:
    try:
        value = json.loads(token)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), isinstance(value, int)
    except (ValueError, OverflowError, RecursionError):
        pass
    return float("nan"), False
