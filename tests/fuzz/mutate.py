"""Small changes of files and texts, drawn by a generator."""

import io
import json
import re
import struct
import zipfile
import zlib

NUMBERS = (
  *('0', '-1', '1', '2', '7', '255', '256', '65536', '2147483648'),
  *('9223372036854775808', '1000000000000', '1e999', '1e-400', 'NaN'),
  *('-Infinity', '0.5', '1_0', '٣', '²', '0x10', '8/255', '1/0'),
)
TOKENS = (
  *('', ' ', '-', ',', ';', ':', '=', '(', ')', '/', '..', '\0', '\n', "'"),
  *('"', 'None', 'null', 'true', 'é', '\ud800', 'a' * 300, '{}', '[]', '%s'),
)
# Values of JSON that may stand in place of any other.
VALUES = (
  *(None, True, -1, 0, 10**30, 1e308, float('nan'), '', 'x', '8/255'),
  *('\ud800', [], {}, [1], ['x'], {'name': 'x'}, [[[]]], 'os:nothing'),
)
NAMES = (
  *('../up.png', '/etc/x.png', 'C:\\x.png', 'train', 'train/', 'a/../b.png'),
  *('a\\b.png', '.', '', 'a//b.png', '__MACOSX/a.png', 'train/b/0.PNG'),
  *('train/c/0.png', 'val/a/1.png', 'é/1.png', 'e\u0301/1.png', 'con/1.png'),
  *('x' * 300 + '.png', 'wnids.txt', 'words.txt', 'val/val_annotations.txt'),
  *('train_images.npy', 'class_names.npy', 'records.npy', 'shape.npy'),
)


def pick(rng, choices):
  return choices[rng.integers(len(choices))]


def span(rng, content):
  start = int(rng.integers(len(content) + 1))
  return start, min(len(content), start + int(rng.integers(1, 17)))


def edit_bytes(rng, content):
  """Flips a bit, cuts, inserts, doubles or removes a block, swaps heads."""
  start, end = span(rng, content)
  change = rng.integers(7)
  if change == 0 and start < len(content):
    flipped = content[start] ^ (1 << int(rng.integers(8)))
    return content[:start] + bytes([flipped]) + content[start + 1 :]
  if change == 1:
    return content[:start]
  if change == 2:
    return content[:start] + rng.bytes(end - start) + content[start:]
  if change == 3:
    return content[:start] + content[start:end] * 2 + content[end:]
  if change == 4:
    return content[:start] + content[end:]
  if change == 5:
    head = pick(
      rng, (b'PK\x03\x04', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'{', b'')
    )
    return head + content[len(head) :]
  return content[:start] + rng.bytes(end - start) + content[end:]


def edit_text(rng, text):
  """Replaces a number, or inserts or replaces a few characters."""
  found = list(re.finditer(r'\d+(?:\.\d+)?', text))
  if found and rng.random() < 0.5:
    match = pick(rng, found)
    return text[: match.start()] + pick(rng, NUMBERS) + text[match.end() :]
  start, end = span(rng, text)
  if rng.random() < 0.5:
    end = start
  return text[:start] + pick(rng, TOKENS) + text[end:]


def edit_json(rng, value):
  """Replaces, removes or renames one thing in a JSON value, at any depth."""
  if isinstance(value, dict | list) and value and rng.random() < 0.8:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = pick(rng, keys)
    changed = value.copy()
    change = rng.integers(8)
    if change == 0:
      del changed[key]
    elif change == 1 and isinstance(value, dict):
      changed[pick(rng, ('name', 'x', '', 'path'))] = changed.pop(key)
    else:
      changed[key] = edit_json(rng, value[key])
    return changed
  return pick(rng, VALUES)


def edit_npy(rng, content):
  """Changes the header of a .npy file, its length included, or the data."""
  size = 10 + struct.unpack('<H', content[8:10])[0]
  header, data = content[10:size].decode('latin1'), content[size:]
  if rng.random() < 0.7:
    if rng.random() < 0.4:
      kinds = ('|O', '<f8', '>f4', '|b1', '<U3', '|V4', '<M8[s]', '<c8', '|u1')
      header = re.sub("'[<>|=][^']*'", f"'{pick(rng, kinds)}'", header)
    else:
      header = edit_text(rng, header)
  else:
    data = edit_bytes(rng, data)
  header = header.encode('latin1', 'replace')[:60_000]
  return content[:8] + struct.pack('<H', len(header)) + header + data


def edit_png(rng, content):
  """Changes a chunk of a PNG, and sets its checksum right."""
  chunks, at = [], 8
  while at + 12 <= len(content):
    (size,) = struct.unpack('>I', content[at : at + 4])
    chunks.append(content[at + 4 : at + 8 + size])
    at += 12 + size
  index = int(rng.integers(len(chunks)))
  kind, data = chunks[index][:4], chunks[index][4:]
  if rng.random() < 0.2:
    kind = pick(rng, (b'eXIf', b'tEXt', b'iCCP', b'acTL', b'tRNS', b'PLTE'))
    chunks.insert(index, kind + data)
  else:
    chunks[index] = kind + edit_bytes(rng, data)
  return content[:8] + b''.join(
    struct.pack('>I', len(c) - 4) + c + struct.pack('>I', zlib.crc32(c))
    for c in chunks
  )


def edit_zip(rng, content):
  """Changes a member of a zip or its name, and writes the zip anew."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = [(name, archive.read(name)) for name in archive.namelist()]
  index = int(rng.integers(len(members)))
  name, data = members[index]
  change = rng.integers(8)
  if change == 0:
    del members[index]
  elif change == 1:
    members[index] = pick(rng, NAMES), data
  elif change == 2:
    other = int(rng.integers(len(members)))
    members[index] = name, members[other][1]
  elif change == 3 and name.lower().endswith('.png'):
    # A name that is there in another case, or twice.
    members.append((name.upper(), data))
  else:
    members[index] = name, mutate(rng, data, 1)
  stream = io.BytesIO()
  how = pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  with zipfile.ZipFile(stream, 'w', how) as archive:
    for name, data in members:
      archive.writestr(zipfile.ZipInfo(name), data, how)
  return stream.getvalue()


def edit(rng, content):
  """One change: half of them keep to the format, so that they get further."""
  if rng.random() < 0.5:
    for head, change in (
      (b'PK\x03\x04', edit_zip),
      (b'\x93NUMPY', edit_npy),
      (b'\x89PNG', edit_png),
    ):
      if content.startswith(head):
        return change(rng, content)
    try:
      text = content.decode()
      if not text.startswith(('{', '[')):
        return edit_text(rng, text).encode('utf-8', 'surrogatepass')
      return json.dumps(edit_json(rng, json.loads(text))).encode()
    except ValueError:
      pass
  return edit_bytes(rng, content)


def mutate(rng, content, most=3):
  """One to three changes of the bytes of a file."""
  for _ in range(int(rng.integers(1, most + 1))):
    try:
      content = edit(rng, content)
    except Exception:  # Of a format that an earlier change has broken.
      content = edit_bytes(rng, content)
  return content


def mutate_text(rng, text, most=3):
  """One to three changes of a text."""
  for _ in range(int(rng.integers(1, most + 1))):
    text = edit_text(rng, text)
  return text
