"""CRC-32C, the checksum of LevelDB and of TensorFlow's files, by numpy.

The register after a piece of data is a sum (XOR) over its words, each moved
past those that follow: so the first half is moved past the second, all its
words at once, and added to it, until one word is left. Some hundred MB/s on one
core, where a table walked byte by byte in Python makes four.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, low bit first
# The register starts at all ones, which is what it holds after these bytes if
# it starts at zero.
_START = np.frombuffer(bytes.fromhex("54641f64"), np.uint8)
_PIECE = 1 << 18  # words folded at a time: the work stays in a core's cache


def masked(crc: int) -> int:
  """What LevelDB stores of a sum, for sums of data that hold sums."""
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _advance(power: int) -> tuple[np.ndarray, np.ndarray]:
  """Tables that move a register past 2**power words of four zero bytes.

  Moving is linear over single bits, so that the effect on 32 bits is the XOR
  of those on the lower and the upper 16, each looked up.
  """
  bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
  if power:
    bits = _moved(_moved(bits, power - 1), power - 1)
  else:
    for _ in range(32):
      odd = (bits & np.uint32(1)) * np.uint32(_POLYNOMIAL)
      bits = bits >> np.uint32(1) ^ odd
  tables = []
  for half in (bits[:16], bits[16:]):
    table = np.zeros(1, np.uint32)
    for bit in half:
      table = np.concatenate([table, table ^ bit])
    tables.append(table)
  return tuple(tables)


def _moved(registers: np.ndarray, power: int) -> np.ndarray:
  """Moves uint32 registers [n] past 2**power zero words."""
  lower, upper = _advance(power)
  halves = registers.view(np.uint16)
  # "wrap" changes nothing here; it spares numpy a check of every index.
  return lower.take(halves[::2], mode="wrap") ^ upper.take(
    halves[1::2], mode="wrap"
  )


def crc32c(data) -> int:
  """Computes a CRC-32C (Castagnoli).

  Args:
    data: bytes, or a contiguous uint8 array.
  """
  data = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
  head = len(data) % (4 * _PIECE)
  first = np.concatenate([_START, data[:head]])
  # Zero bytes in front leave a zero register as it is.
  padded = np.zeros(4 << (-(-len(first) // 4) - 1).bit_length(), np.uint8)
  padded[-len(first) :] = first
  register = _folded(padded.view(np.uint32))
  for start in range(head, len(data), 4 * _PIECE):
    piece = data[start : start + 4 * _PIECE].copy().view(np.uint32)
    piece[0] ^= register
    register = _folded(piece)
  return register ^ 0xFFFFFFFF


def _folded(words: np.ndarray) -> int:
  """Returns a zero register after 2**k words."""
  while len(words) > 1:
    half = len(words) // 2
    moved = _moved(words[:half], half.bit_length() - 1)
    words = moved ^ words[half:]
  return int(_moved(words, 0)[0])
