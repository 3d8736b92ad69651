#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""embed.py IN OUT NAME: writes a C file with the bytes of IN as NAME, their count as NAME_len."""
import sys

source, target, name = sys.argv[1:]
data = open(source, "rb").read()
lines = [",".join(str(b) for b in data[i:i + 24]) for i in range(0, len(data), 24)]
with open(target, "w") as out:
    out.write("#include <stddef.h>\n")
    out.write(f"extern const unsigned char {name}[];\nextern const size_t {name}_len;\n")
    out.write(f"const unsigned char {name}[] = {{\n" + ",\n".join(lines) + "};\n")
    out.write(f"const size_t {name}_len = {len(data)};\n")
