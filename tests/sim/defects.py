#!/usr/bin/env python3
"""Plants defects into copies of the program's sources, for the simulation's exam.

  defects.py OUTPUT_DIRECTORY SOURCE...

A defect replaces a piece of text by one that does wrong where the variable sim_defect has the defect's number. Nothing
of this is in the program itself. A piece that is not there exactly once (somebody has rewritten it) is left out, and the
exam says so: then the defect needs a new place.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Defect:
    def __init__(self, number, file, what, seeds, right, wrong):
        self.number, self.file, self.what, self.seeds = number, file, what, seeds
        self.right, self.wrong = right, wrong
        self.planted = False


def when(number):
    return f"(sim_defect == {number})"


DEFECTS = [
]


def plant(file, text):
    for defect in DEFECTS:
        if defect.file != file:
            continue
        if text.count(defect.right) != 1:
            print(f"defects.py: defect {defect.number} has no place in {file}", file=sys.stderr)
            continue
        text = text.replace(defect.right, defect.wrong.replace("@", when(defect.number)))
        defect.planted = True
    return text


def write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main(output, sources):
    output.mkdir(parents=True, exist_ok=True)
    for source in map(pathlib.Path, sources):
        file = str(source.relative_to(ROOT))
        text = plant(file, source.read_text())
        (output / file).parent.mkdir(exist_ok=True)
        write(output / file, f'extern int sim_defect;\n#line 1 "{file}"\n{text}')
    rows = "".join(
        f'    {{{d.number}, "{d.file}", "{d.what}", {d.seeds}, {str(d.planted).lower()}}},\n' for d in DEFECTS)
    write(output / "defects.c",
          f'#include "defects.h"\n\nconst sim_defect_info sim_defect_infos[] = {{\n{rows}    {{0, 0, 0, 0, false}},\n}};\n'
          f"const int sim_defect_count = {len(DEFECTS)};\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
