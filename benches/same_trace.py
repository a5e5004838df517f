"""Whether two traces say the same to the last bit: every tensor, and all of the summary but times, memory and version.

    python3 benches/same_trace.py before.trace after.trace

Prints the tensors that differ, and ends with exit code 1 if there are any. Needs nothing but Python.
"""

import json
import sys

LOOSE = {"seconds", "peak_memory_bytes", "planned_memory_bytes", "version"}


def tensors(path):
    """The bytes of each tensor of a safetensors file by name, and its metadata."""
    data = open(path, "rb").read()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    notes = header.pop("__metadata__", {})
    start = 8 + n
    cut = {name: (t["dtype"], t["shape"], data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]) for name, t in header.items()}
    return cut, json.loads(notes["summary"])


def main(before, after):
    (a, summary_a), (b, summary_b) = tensors(before), tensors(after)
    different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    loose = [name for name in summary_a.keys() | summary_b.keys() if name not in LOOSE and summary_a.get(name) != summary_b.get(name)]
    for name in different + [f"summary.{name}" for name in sorted(loose)]:
        print("differs:", name)
    print(f"{len(a)} tensors, {len(different)} differ")
    return bool(different or loose)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
